"""The memory of the head operator: logits of one chunk, and gradients that chunks are added to."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.types import HeadLike, Signal

# Bytes of logits on a CPU, both sides: a bound on memory. Chunks of fewer than 256 rows, as float32 and wide
# vocabularies get, make the products slower (docs/benchmarks.md).
_BUFFERS = 52_000_000
_LEAST_ROWS, _MOST_ROWS = 64, 256
_FEW_CHUNKS = 32


class Room:
    """Buffers that are made once and used again: fresh memory costs a CPU a page fault for every 4 kB of it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def of(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """A tensor of this shape whose contents are anything."""
        key, size = (name, like.dtype, like.device), shape[0] * shape[1]
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)


def rows_at_once(head: HeadLike, hidden: Tensor, teacher: Signal | None) -> int:
    """Tokens of a chunk: on a CPU as many as keep the buffers small, on a device enough to fill it."""
    if hidden.device.type != "cpu":
        return 2048
    wide = 2 if teacher is not None and teacher.hidden is not None else 1
    size = _BUFFERS // (wide * head.vocab * hidden.element_size()) // 32 * 32
    return max(_LEAST_ROWS, min(_MOST_ROWS, size))


class Gradients:
    """Gradients of hidden states, head weight and bias, each in a buffer made once, or None if not wanted."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        wanted: tuple[bool, ...],
        chunks: int,
    ) -> None:
        precise = torch.float64 if weight.dtype == torch.float64 else torch.float32
        # A bfloat16 product is added up in float32 inside; from many chunks bfloat16 would lose the small ones.
        kind = weight.dtype if chunks <= _FEW_CHUNKS else precise
        self.hidden = torch.zeros_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=kind) if wanted[1] else None
        self.bias = (
            torch.zeros_like(bias, dtype=precise) if bias is not None and wanted[2] else None
        )

    def add(self, part: slice, slope: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Adds what a chunk gives. slope: of its raw logits (chunk, vocab), hidden: (chunk, width), weight: (vocab, width)."""
        vocab = slope.shape[1]
        if self.bias is not None:
            self.bias[:vocab] += slope.sum(0, dtype=self.bias.dtype)
        slope = slope.to(weight.dtype)
        if self.hidden is not None:
            torch.mm(slope, weight, out=self.hidden[part])
        if self.weight is not None and self.weight.dtype == weight.dtype:
            self.weight[:vocab].addmm_(slope.T, hidden)
        elif self.weight is not None:
            self.weight[:vocab] += slope.T @ hidden
