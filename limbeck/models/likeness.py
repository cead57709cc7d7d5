"""How alike what models have inside is: how far each block turns the stream, and linear CKA between blocks.

Of tokens that count, each document seeing only itself. No tensor of (tokens, tokens) is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from limbeck.errors import NonFinite
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


@torch.no_grad()
def blocks(model: nn.Module, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """How far each block turns each token, float64 (layers, counted), and what it gives: (counted, width) each."""
    seen, flat = _passed(model, batch, lambda before, after: (_turn(before, after), after))
    turns = torch.stack([batch.pick(flat(turn)) for turn, _ in seen])
    return turns, [batch.pick(flat(after)) for _, after in seen]


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


@torch.no_grad()
def cka(mine: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Linear CKA of each of `mine` with each of `theirs` (Kornblith et al., 2019), on the CPU: float64 (mine, theirs).

    mine, theirs: (tokens, width) each, of the same tokens; widths may differ. |X'Y|^2 / (|X'X| |Y'Y|) of centred
    channels, in float64: 1 where one side is the other turned, scaled or moved. It is the plain estimate, which is too
    high where there are fewer tokens than channels. What is the same at every token is like nothing: 0.
    Two sides in float64 (tokens, width) and one product (width, width) are held at one time.
    """
    own = torch.stack([_shared(one, one) for one in map(_centred, mine)])
    columns = []
    for other in map(_centred, theirs):
        across = torch.stack([_shared(_centred(one), other) for one in mine])
        scale = own * _shared(other, other)
        columns.append(torch.where(scale > 0, across.square() / scale, 0.0))
    return torch.stack(columns, 1).cpu()


def _centred(vectors: Tensor) -> Tensor:
    """Vectors (tokens, width) less their mean, in float64."""
    if not bool(vectors.isfinite().all()):
        raise NonFinite(
            "a block gives numbers that are not finite; another compute.dtype may help."
        )
    precise = vectors.double()
    return precise - precise.mean(0)


def _shared(one: Tensor, other: Tensor) -> Tensor:
    """|X'Y|, Frobenius: a scalar."""
    found: Tensor = torch.linalg.matrix_norm(one.T @ other)
    return found
