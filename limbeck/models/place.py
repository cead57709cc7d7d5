"""Where a model stands, in which numbers it computes, and what it keeps for the backward pass."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.objectives._compiled import able
from limbeck.progress import say

Model = TypeVar("Model", bound=nn.Module)
_GRAPHS = 64
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` is this rank's CUDA device, or the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(
            f"device: found '{name}', but no CUDA device is here; wanted 'cpu' or 'auto'."
        )
    try:
        return torch.device(name)
    except RuntimeError as reason:
        raise ModelError(f"device: '{name}' is none that torch knows: {reason}.") from reason


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; `auto` is bfloat16 where the device multiplies it natively."""
    if name != "auto":
        if name not in _DTYPES:
            raise ModelError(f"dtype: '{name}' found; wanted auto or one of {', '.join(_DTYPES)}.")
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16") or able.get("amx_bf16") or able.get("arm_bf16")
    return torch.bfloat16 if native else torch.float32


def cast(model: Model, dtype: torch.dtype) -> Model:
    """The same model with floating parameters of this dtype, and buffers as they are.

    `model.to(dtype)` casts the frequencies of rotary positions too: in bfloat16 token 1,000 stands some tokens off.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    return model


def compile_blocks(blocks: nn.ModuleList, whose: str, *, dynamic: bool | None = None) -> None:
    """Compiles each block from its first forward on; where nothing can be compiled, says so and leaves them as they are.

    dynamic: one graph for rows of any number and length, so that the last bits do not depend on which came before; None
    makes one for the first sizes that come, and such a graph once others do.
    """
    device = next(blocks.parameters()).device.type
    if not able(device):
        say(
            f"compute.compile: no compiler for {device} is here; the blocks of {whose} stay as they are."
        )
        return
    # The compiler counts by code, and blocks of one family share theirs: a student's and a teacher's, in training and
    # judged, with documents and without would be more than the eight that it allows.
    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)
    for block in blocks:
        block.compile(dynamic=dynamic)


def checkpoint_activations(student: PreTrainedModel) -> None:
    """Keeps only each block's input for the backward pass."""
    with warnings.catch_warnings():
        # transformers renames the method; this name works in every version that is admitted.
        warnings.simplefilter("ignore", FutureWarning)
        student.gradient_checkpointing_enable({"use_reentrant": False})
