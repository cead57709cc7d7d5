"""The memory of the head operator: logits of one chunk, and gradients that chunks are added to."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.types import HeadLike

# Tokens of a chunk. On a CPU fewer make the products slower (docs/benchmarks.md), more only take memory: 256 keep a
# buffer of logits below the head's own size. A device needs as many to be busy.
_ON_CPU, _ON_DEVICE = 256, 2048
# Ids of one product in float32 on a CPU: its library loses a fifth of its speed on all ids at once.
_IDS_AT_ONCE = 2048
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


def rows_at_once(device: torch.device) -> int:
    """Tokens of a chunk that suit a device."""
    return _ON_CPU if device.type == "cpu" else _ON_DEVICE


def parts(tokens: int, size: int) -> list[slice]:
    """Slices of so many tokens, the last of what is left."""
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def product(room: Room, name: str, hidden: Tensor, head: HeadLike) -> Tensor:
    """Hidden @ weight.T (+ bias) over the real ids, in a buffer: (chunk, vocab)."""
    raw = room.of(name, (hidden.shape[0], head.vocab), hidden)
    weight = head.weight[: head.vocab]
    narrow = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    for ids in parts(head.vocab, _IDS_AT_ONCE if narrow else head.vocab):
        torch.mm(hidden, weight[ids].T, out=raw[:, ids])
    if head.bias is not None:
        raw += head.bias[: head.vocab]
    return raw


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
        # The first chunk fills it: zeros would cost a pass that writes them and one that adds to them.
        self.weight = torch.empty_like(weight, dtype=kind) if wanted[1] else None
        self._filled = False
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
        if self.weight is not None:
            self._add_to_weight(self.weight, slope.T, hidden)

    def close(self) -> None:
        """To be called after the last chunk: what none of them gave a gradient has zero."""
        if self.weight is not None and not self._filled:
            self.weight.zero_()

    def _add_to_weight(self, whole: Tensor, slope: Tensor, hidden: Tensor) -> None:
        """slope: (vocab, chunk). Rows beyond the vocabulary are padding, whose gradient is zero."""
        real, alike = whole[: slope.shape[0]], whole.dtype == hidden.dtype
        if not self._filled:
            self._filled = True
            whole[slope.shape[0] :] = 0
            if alike:
                torch.mm(slope, hidden, out=real)
            else:
                real.copy_(slope @ hidden)
        elif alike:
            real.addmm_(slope, hidden)
        else:
            real += slope @ hidden
