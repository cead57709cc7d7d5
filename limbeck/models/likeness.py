"""How far each block of a model turns the stream, of tokens that count, each document seeing only itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.models import layout
from limbeck.types import Batch

T = TypeVar("T")


@torch.no_grad()
def block_importance(model: nn.Module, batch: Batch) -> Tensor:
    """1 - cos(block input, block output), mean over tokens that count, of each block: (layers,).

    Men et al., 2024 (ShortGPT). Near 0: the block hardly turns the stream.
    """
    turns, flat = _passed(model, batch, _turn)
    return torch.stack([batch.pick(flat(turn)).mean().cpu() for turn in turns])


def _turn(before: Tensor, after: Tensor) -> Tensor:
    """(rows, time, width) twice -> float64 (rows, time)."""
    return 1 - torch.cosine_similarity(before.double(), after.double(), dim=-1)


def _passed(
    model: nn.Module, batch: Batch, see: Callable[[Tensor, Tensor], T]
) -> tuple[list[T], Callable[[Tensor], Tensor]]:
    """What is seen of each block's input and output as it ran, and what makes (tokens, ...) of (rows, time, ...)."""
    seen: list[T] = []

    def watch(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        seen.append(see(inputs[0], output[0] if isinstance(output, tuple) else output))

    hooks = [block.register_forward_hook(watch) for block in layout.layers(model)]
    try:
        _, flat = layout.forward(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return seen, flat
