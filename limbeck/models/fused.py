"""The kernels of mamba_ssm and causal_conv1d for what models/scan.py does, where they are installed and a GPU is there."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CHUNK = 128
# A kernel wants a time step and an input apart, of which we have the product: a step is never smaller than this.
_LEAST = 1e-12

Kernel = Callable[..., Any]


@functools.cache
def _kernel(module: str, name: str) -> Kernel | None:
    """A function of a library that may be missing. LIMBECK_EAGER=1 has everything in plain PyTorch."""
    if os.environ.get("LIMBECK_EAGER", "0") not in ("", "0"):
        return None
    try:
        found: Kernel = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return found


def scanning(values: Tensor, begins: Tensor | None, state: Tensor | None) -> Kernel | None:
    """The kernel that can do this scan, or None. One with documents begins without a state."""
    if not values.is_cuda or values.dtype == torch.float64:
        return None
    if begins is not None and state is not None:
        return None
    return _kernel("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")


def convolving(inputs: Tensor, before: Tensor | None) -> Kernel | None:
    """The kernel that can do this convolution, or None."""
    if not inputs.is_cuda or inputs.dtype == torch.float64 or before is not None:
        return None
    return _kernel("causal_conv1d", "causal_conv1d_fn")


def scan(
    kernel: Kernel,
    values: Tensor,
    write: Tensor,
    read: Tensor,
    log_decay: Tensor,
    *,
    begins: Tensor | None,
    state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What models/scan.py's `scan` gives, by a kernel that computes exp(dt A) and dt x: dt is -log a, A is -1, x is v / dt.

    In float32, in which dividing and multiplying again costs two roundings; where a token hardly decays, dt stays above a
    least number, of which exp is 1.
    """
    step = (-log_decay.float()).clamp(min=_LEAST)
    found, last = kernel(
        (values.float() / step.unsqueeze(-1)).contiguous(),
        step.contiguous(),
        -torch.ones(step.shape[2], device=step.device),
        write.float().contiguous(),
        read.float().contiguous(),
        chunk_size=CHUNK,
        D=None,
        initial_states=None if state is None else state.float().contiguous(),
        seq_idx=numbered(begins),
        return_final_states=True,
    )
    return found.to(values.dtype), last


def convolve(
    kernel: Kernel, inputs: Tensor, weight: Tensor, bias: Tensor | None, begins: Tensor | None
) -> Tensor:
    """What models/scan.py's `convolve` gives: (batch, time, channels)."""
    channels_last = inputs.contiguous().transpose(1, 2)
    given = {"bias": None if bias is None else bias.to(inputs.dtype), "activation": None}
    found: Tensor = kernel(
        channels_last, weight.to(inputs.dtype), seq_idx=numbered(begins), **given
    )
    return found.transpose(1, 2)


def numbered(begins: Tensor | None) -> Tensor | None:
    """The number of each token's document in its row: int32 (batch, time)."""
    return None if begins is None else begins.cumsum(1).to(torch.int32)
