"""The memory of the head operator: logits of one chunk, and gradients that chunks are added to."""

from __future__ import annotations

import math
import weakref

import torch
from torch import Tensor

from limbeck.types import HeadLike

# Tokens of a chunk. On a CPU fewer make the products slower (docs/benchmarks.md), more only take memory: 256 keep a
# buffer of logits below the head's own size. A device needs as many to be busy.
_ON_CPU, _ON_DEVICE = 256, 2048
# Ids of one product in float32 on a CPU: its library loses a fifth of its speed on all ids at once.
_IDS_AT_ONCE = 2048
# So many that what is laid down for a product to be added to is still near when it comes.
_CENTRED_IDS_AT_ONCE = 8192
_SAMPLED_IDS = 384
_FEW_CHUNKS = 32
# A tensor of fewer bytes is cheap to make anew.
_WORTH_KEEPING = 2**24


class Room:
    """Buffers that are made once and used again: fresh memory costs a CPU a page fault for every 4 kB of it."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}
        self._lent: list[tuple[memoryview, weakref.ref[memoryview]]] = []

    def of(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """A tensor of this shape whose contents are anything."""
        key, size = (name, like.dtype, like.device), shape[0] * shape[1]
        if key not in self._buffers or self._buffers[key].numel() < size:
            self._buffers[key] = like.new_empty(size)
        return self._buffers[key][:size].view(shape)

    def lend(self, like: Tensor, dtype: torch.dtype) -> Tensor:
        """A tensor of like's shape whose contents are anything, and which may outlive the call that it is made in.

        Its memory serves again once nobody holds it or a view of it. Made anew in each step, a head's gradient costs
        up to a tenth of the head's time in page faults; a device has an allocator that keeps them.
        """
        size = like.numel() * dtype.itemsize
        if like.device.type != "cpu" or size < _WORTH_KEEPING:
            return torch.empty_like(like, dtype=dtype)
        free = [memory for memory, lease in self._lent if lease() is None and len(memory) == size]
        memory = free[0] if free else torch.empty(size, dtype=torch.uint8).numpy().data
        lease = memory[:]  # the storage of the tensor holds this one, and no other does
        others = [(kept, of) for kept, of in self._lent if of() is not None]
        self._lent = [*others, (memory, weakref.ref(lease))]
        return torch.frombuffer(lease, dtype=dtype).view(like.shape)


def rows_at_once(device: torch.device) -> int:
    """Tokens of a chunk that suit a device."""
    return _ON_CPU if device.type == "cpu" else _ON_DEVICE


def parts(tokens: int, size: int) -> list[slice]:
    """Slices of so many tokens, the last of what is left."""
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def product(
    room: Room, name: str, hidden: Tensor, head: HeadLike, *, centred: bool = False
) -> Tensor:
    """Raw logits over the real ids, in a buffer: (chunk, vocab). centred: as in `product_into`."""
    raw = room.of(name, (hidden.shape[0], head.vocab), hidden)
    bias = None if head.bias is None else head.bias[: head.vocab]
    product_into(raw, hidden, head.weight[: head.vocab], bias, centred=centred)
    return raw


def product_into(
    raw: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *, centred: bool
) -> None:
    """Hidden @ weight.T (+ bias): (chunk, width) and (vocab, width) to (chunk, vocab).

    centred: if narrow, less about the largest of each row, which no softmax sees. bfloat16 rounds a logit of 25 by
    up to 0.06, and the likely ids have the largest: near zero it rounds them by far less. Only on a CPU: with CUDA's
    library it made nothing more exact and the product took a fifth more time.
    """
    narrow = hidden.dtype in (torch.bfloat16, torch.float16)
    centred = centred and narrow and hidden.device.type == "cpu"
    below = -_height(hidden, weight) if centred else None
    for ids in parts(weight.shape[0], _ids_at_once(hidden, centred=centred) or weight.shape[0]):
        if below is None:
            torch.mm(hidden, weight[ids].T, out=raw[:, ids])
        else:  # added inside, in float32, before the one rounding
            raw[:, ids].copy_(below).addmm_(hidden, weight[ids].T)
    if bias is not None:
        raw += bias


def _height(hidden: Tensor, weight: Tensor) -> Tensor:
    """About the largest logit of each row (rows, 1): where normal ones with the spread of a few would have it."""
    vocab = weight.shape[0]
    some = hidden @ weight[:: max(1, vocab // _SAMPLED_IDS)].T
    spread, mean = torch.std_mean(some.float(), -1, correction=0, keepdim=True)
    return (mean + math.sqrt(2 * math.log(vocab)) * spread).to(hidden.dtype)


def _ids_at_once(hidden: Tensor, *, centred: bool) -> int | None:
    """Ids of one product; None is all."""
    if hidden.device.type != "cpu":
        return None
    if centred:
        return _CENTRED_IDS_AT_ONCE
    return _IDS_AT_ONCE if hidden.dtype == torch.float32 else None


class Gradients:
    """Gradients of hidden states, head weight and bias, each in a buffer made once, or None if not wanted."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        room: Room,
        wanted: tuple[bool, ...],
        chunks: int,
    ) -> None:
        precise = torch.float64 if weight.dtype == torch.float64 else torch.float32
        # A bfloat16 product is added up in float32 inside; from many chunks bfloat16 would lose the small ones.
        kind = weight.dtype if chunks <= _FEW_CHUNKS else precise
        self.hidden = torch.zeros_like(hidden) if wanted[0] else None
        # The first chunk fills it: zeros would cost a pass that writes them and one that adds to them.
        self.weight = room.lend(weight, kind) if wanted[1] else None
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
