"""The words that every room shares: Batch, Rows, TopK, Signal, Wanted, and the protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _moved(thing: T, device: torch.device | str) -> T:
    """A copy of a dataclass whose tensors (also those inside dictionaries) are on the device."""
    changes: dict[str, Any] = {}
    for item in fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value.to(device, non_blocking=True)
        elif isinstance(value, dict):
            changes[item.name] = {key: tensor.to(device) for key, tensor in value.items()}
    return replace(thing, **changes)  # type: ignore[type-var]


@dataclass(frozen=True)
class Batch:
    """Rows of packed tokens, as every model sees them.

    input_ids, labels, position_ids, document_ids: int64 (batch, time). weights: float32 (batch, time).
    label_bytes: int64 (batch, time), UTF-8 bytes of text that each label stands for, 0 for a separator.
    addresses: (batch,), the content hash of each row, by which a cache is read.
    labels[b, t] is the token after input_ids[b, t], always a real token id; what counts is said by weights.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    document_ids: Tensor
    weights: Tensor
    label_bytes: Tensor
    addresses: tuple[str, ...]

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return _moved(self, device)

    @property
    def rows(self) -> Rows:
        """The batch seen token by token, for objectives."""
        return Rows(
            labels=self.labels.flatten(),
            weights=self.weights.flatten(),
            position_ids=self.position_ids.flatten(),
            document_ids=self.document_ids.flatten(),
        )


@dataclass(frozen=True)
class Rows:
    """What an objective may know of its tokens besides the two Signals. All (tokens,)."""

    labels: Tensor
    weights: Tensor
    position_ids: Tensor
    document_ids: Tensor

    def __getitem__(self, part: slice) -> Rows:
        """The rows of a chunk of tokens."""
        return Rows(
            self.labels[part], self.weights[part], self.position_ids[part], self.document_ids[part]
        )


@dataclass(frozen=True)
class TopK:
    """The likeliest tokens of a distribution, over the full vocabulary and at temperature 1.

    ids: int64 (tokens, k), no id twice in a row. logprobs: float (tokens, k).
    rest: float (tokens,), the log of the mass outside the kept ids; None where it must be inferred.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor | None = None

    def __getitem__(self, part: slice) -> TopK:
        """The kept tokens of a chunk of tokens."""
        rest = None if self.rest is None else self.rest[part]
        return TopK(self.ids[part], self.logprobs[part], rest)

    def to(self, device: torch.device | str) -> TopK:
        """The same on another device."""
        return _moved(self, device)


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

    def finish(self, raw: Tensor) -> Tensor:
        """Logits from hidden @ weight.T (+ bias): scale, soft-cap, cut of padded ids."""
        ...

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (tokens, vocab) of hidden states (tokens, width)."""
        ...


@dataclass(frozen=True)
class Signal:
    """What one model says of a batch. The same type for teacher and student.

    One of: logits (tokens, vocab); hidden (tokens, width) with the head that makes logits of it; topk.
    features: {tap: (tokens, width)}.
    """

    logits: Tensor | None = None
    hidden: Tensor | None = None
    head: HeadLike | None = None
    topk: TopK | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def distribution(self, part: slice) -> Tensor | TopK | None:
        """What it says of a chunk of tokens: logits (tokens, vocab) made now, TopK, or nothing."""
        if self.topk is not None:
            return self.topk[part]
        if self.logits is not None:
            return self.logits[part]
        if self.hidden is not None and self.head is not None:
            return self.head(self.hidden[part])
        return None

    def to(self, device: torch.device | str) -> Signal:
        """The same signal on another device (the head stays where it is)."""
        topk = None if self.topk is None else self.topk.to(device)
        return replace(_moved(self, device), topk=topk)


@dataclass(frozen=True)
class Wanted:
    """What is asked of a teacher: its distribution, and the features at these taps."""

    distribution: bool = True
    features: tuple[str, ...] = ()


class Teacher(Protocol):
    """Whatever can give a Signal for a Batch."""

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """The teacher's view of each token: tensors of batch x time tokens, without gradients."""
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
"""(student (tokens, vocab), teacher, rows, *, options) -> (tokens,), never reduced."""
