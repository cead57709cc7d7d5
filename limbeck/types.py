"""The words that every room shares: Batch, Rows, Signal and its kinds, Wanted, and the protocols."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NewType, Protocol, cast

import torch
from torch import Tensor, nn

from limbeck.kept import Drawn, HeadMean, Heads, Mixing, Sampled, TopK, moved_to

__all__ = [
    "Batch",
    "Distribution",
    "Drawn",
    "Feature",
    "HeadLike",
    "HeadMean",
    "Heads",
    "Materials",
    "Mixing",
    "Objective",
    "Rows",
    "Sampled",
    "Signal",
    "Source",
    "Teacher",
    "TopK",
    "Units",
    "Wanted",
]

Feature = NewType("Feature", Tensor)
"""What a model has at a tap: (tokens, width). An objective that asks for one compares two taps, token by token."""
Units = NewType("Units", Tensor)
"""A few tokens of one row, or a few pooled rows, as a tap has them: (units, width). Compared among themselves."""


@dataclass(frozen=True)
class Batch:
    """Rows of packed tokens, as every model sees them.

    input_ids, labels, position_ids, document_ids: int64 (batch, time). weights: float32 (batch, time).
    label_bytes: int64 (batch, time), UTF-8 bytes of text that each label stands for, 0 for a separator.
    addresses: (batch,), the content hash of each row, by which a cache is read. epochs: (batch,), how often the
    source had been read through before each row; empty where nobody asks.
    labels[b, t] is the token after input_ids[b, t], always a real token id; what counts is said by weights.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    document_ids: Tensor
    weights: Tensor
    label_bytes: Tensor
    addresses: tuple[str, ...]
    epochs: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device; what counts is found before, so that no device is waited for."""
        moved = moved_to(self, device)
        for name in ("counted", "edges"):
            moved.__dict__[name] = getattr(self, name).to(device, non_blocking=True)
        moved.__dict__["on_cpu"] = self.on_cpu
        return moved

    @functools.cached_property
    def on_cpu(self) -> Batch:
        """The same batch where numbers can be read; that which was moved to a device is still at hand."""
        return self if self.input_ids.device.type == "cpu" else moved_to(self, "cpu")

    @functools.cached_property
    def counted(self) -> Tensor:
        """The flat places of the tokens whose weight is not 0, in order: int64 (counted,)."""
        return self.weights.flatten().nonzero().squeeze(-1)

    @functools.cached_property
    def edges(self) -> Tensor:
        """Where documents begin among the flat tokens, and the end: int32 (documents + 1,)."""
        return edges(self.document_ids)

    def pick(self, tensor: Tensor) -> Tensor:
        """(batch x time, ...) -> (counted, ...): what belongs to the tokens that count."""
        if self.counted.numel() == self.weights.numel():
            return tensor
        return cast(Tensor, cast(Any, _Picked.apply)(tensor, self.counted))

    @property
    def rows(self) -> Rows:
        """The tokens that count, one after the other, for objectives."""
        return Rows(
            labels=self.pick(self.labels.flatten()),
            weights=self.pick(self.weights.flatten()),
            position_ids=self.pick(self.position_ids.flatten()),
            document_ids=self.pick(self.document_ids.flatten()),
        )


class _Picked(torch.autograd.Function):
    """Some places of a tensor, each once, so that the gradient is laid down there and nothing is added up."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = tensor.shape
        return tensor.index_select(0, places)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return upstream.new_zeros(ctx.shape).index_copy_(0, places, upstream), None


def edges(document_ids: Tensor) -> Tensor:
    """Where documents begin among the flat tokens of (batch, time), and the end: int32 (documents + 1,).

    A document ends with its row.
    """
    begins = torch.ones_like(document_ids, dtype=torch.bool)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    found = begins.flatten().nonzero().squeeze(-1)
    return nn.functional.pad(found, (0, 1), value=document_ids.numel()).to(torch.int32)


@dataclass(frozen=True)
class Rows:
    """What an objective may know of its tokens besides the two Signals. All (tokens,)."""

    labels: Tensor
    weights: Tensor
    position_ids: Tensor
    document_ids: Tensor

    def __getitem__(self, part: slice | Tensor) -> Rows:
        """The rows of a chunk of tokens, or of those at int64 (some,)."""
        return Rows(
            self.labels[part], self.weights[part], self.position_ids[part], self.document_ids[part]
        )


Distribution = Tensor | TopK | Sampled | HeadMean
"""What a teacher can say of its next token: logits (tokens, vocab), or one of the three kinds."""


class HeadLike(Protocol):
    """From hidden states (tokens, width) to logits (tokens, vocab); see models/layout.py."""

    @property
    def weight(self) -> Tensor:
        """(vocab or more, width)."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """(vocab or more,), where the family has one."""
        ...

    @property
    def scale(self) -> float:
        """What the products are multiplied by."""
        ...

    @property
    def softcap(self) -> float | None:
        """The most that a logit can be, where the family has one."""
        ...

    @property
    def vocab(self) -> int:
        """The ids that count; rows of the weight beyond them are padding."""
        ...

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (tokens, vocab) of hidden states (tokens, width)."""
        ...


@dataclass(frozen=True)
class Signal:
    """What one model says of the tokens of a batch that count. The same type for teacher and student.

    One of: logits (tokens, vocab); hidden (tokens, width) with the head that makes logits of it; topk; sampled;
    mean. tokens: those of batch.counted, in that order. features: {tap: (held, width)}, where held: int64 (held,)
    says which of these tokens have them; None: all. heads: {tap: Heads} of every token of the batch.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    head: HeadLike | None = None
    topk: TopK | None = None
    sampled: Sampled | None = None
    mean: HeadMean | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    held: Tensor | None = None
    heads: dict[str, Heads | Mixing] = field(default_factory=dict)

    def distribution(self, part: slice) -> Distribution | None:
        """What it says of a chunk of tokens: logits (tokens, vocab) made now, what is kept, or nothing."""
        for kept in (self.topk, self.sampled, self.mean):
            if kept is not None:
                return kept[part]
        if self.logits is not None:
            return self.logits[part]
        if self.hidden is not None and self.head is not None:
            return self.head(self.hidden[part])
        return None

    def to(self, device: torch.device | str) -> Signal:
        """The same signal on another device (the head stays where it is)."""
        return replace(
            moved_to(self, device),
            topk=None if self.topk is None else self.topk.to(device),
            sampled=None if self.sampled is None else self.sampled.to(device),
            mean=None if self.mean is None else self.mean.to(device),
        )


@dataclass(frozen=True)
class Wanted:
    """What is asked of a teacher: its distribution, the features at these taps, and the attention at these."""

    distribution: bool = True
    features: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()


class Teacher(Protocol):
    """Whatever can give a Signal for a Batch."""

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """The teacher's view of each token of batch.counted, in that order, without gradients."""
        ...


class Source(Protocol):
    """Rows in an order that is a pure function of (seed, epoch, global position).

    Position p is in epoch p // rows; a resumed run needs this one number and nothing else.
    rows: in one epoch. length: tokens a row. identity: tells one text, read one way, from every other.
    """

    rows: int
    length: int
    identity: str

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these global positions, as one Batch of (len(positions), length)."""
        ...


@dataclass(frozen=True)
class Materials:
    """What a student is made of. Nothing is loaded before a student asks for it.

    teacher: gives the teacher model, or None where no model is named. load: (name, revision) -> model. Both stand
    on the meta device when a run is only shown. config: the teacher's. text: rows that a student may look at.
    """

    teacher: Callable[[], Any]
    load: Callable[[str, str | None], Any]
    config: Any = None
    text: Source | None = None


Objective = Callable[..., Tensor]
"""(student, teacher, rows, *, options) -> (tokens,), never reduced.

What it compares is the type of its `student`: Tensor, logits (tokens, vocab); Feature, Units, Heads or Mixing, two taps.
"""
