"""What can be kept of a model, token by token: TopK, Sampled, Drawn, HeadMean of its distribution, Heads and Mixing inside."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def moved_to(thing: T, device: torch.device | str) -> T:
    """A copy of a dataclass whose tensors (also those inside dictionaries) are on the device."""
    changes: dict[str, Any] = {}
    for item in fields(thing):  # type: ignore[arg-type]
        value = getattr(thing, item.name)
        if isinstance(value, Tensor):
            changes[item.name] = value.to(device, non_blocking=True)
        elif isinstance(value, dict):
            changes[item.name] = {key: each.to(device) for key, each in value.items()}
    return replace(thing, **changes)  # type: ignore[type-var]


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
        return moved_to(self, device)


@dataclass(frozen=True)
class Sampled:
    """A few ids of each token with weights, whose expectation is the teacher's distribution at temperature 1.

    ids: int64 (kept,), weights: float (kept,), tokens: int64 (kept,), the token that each belongs to, rising; an id
    stands once a token. starts: int64 (tokens + 1,), always on the CPU: token t has ids[starts[t]:starts[t + 1]].
    entropy: float (tokens,), of the teacher's whole distribution in nats; None where it is not known.
    """

    ids: Tensor
    weights: Tensor
    tokens: Tensor
    starts: Tensor
    entropy: Tensor | None = None

    @classmethod
    def of(
        cls, ids: Tensor, weights: Tensor, counts: Tensor, entropy: Tensor | None = None
    ) -> Sampled:
        """From how many ids each token has: counts int64 (tokens,), on the CPU as all else."""
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        tokens = torch.repeat_interleave(torch.arange(counts.shape[0]), counts)
        return cls(ids, weights, tokens, starts, entropy)

    def __getitem__(self, part: slice) -> Sampled:
        """The kept ids of a chunk of tokens."""
        first, last, _ = part.indices(self.starts.shape[0] - 1)
        kept = slice(int(self.starts[first]), int(self.starts[last]))
        entropy = None if self.entropy is None else self.entropy[part]
        starts = self.starts[first : last + 1] - self.starts[first]
        return Sampled(
            self.ids[kept], self.weights[kept], self.tokens[kept] - first, starts, entropy
        )

    def to(self, device: torch.device | str) -> Sampled:
        """The same on another device."""
        return replace(moved_to(self, device), starts=self.starts)


@dataclass(frozen=True)
class Drawn:
    """What threshold sampling keeps of each token: its likely ids exactly, and draws among the others.

    heads: int64 (tokens,), how many ids are exact; head_ids int64 and head_logprobs float32 (exact,), token after
    token. tails: int64 (draws, tokens); tail_ids: int64 (drawn,), draw after draw, in each token after token: each
    stands for a weight of the threshold. entropy: float32 (tokens,), of the whole distribution in nats.
    """

    heads: Tensor
    head_ids: Tensor
    head_logprobs: Tensor
    tails: Tensor
    tail_ids: Tensor
    entropy: Tensor


@dataclass(frozen=True)
class HeadMean:
    """The mean row of a frozen student head under the teacher: all that forward KL needs to know of the teacher.

    rows: float (tokens, width), sum over ids of p(id) * weight[id]. entropy: float (tokens,), of the teacher, in nats.
    """

    rows: Tensor
    entropy: Tensor

    def __getitem__(self, part: slice) -> HeadMean:
        """The means of a chunk of tokens."""
        return HeadMean(self.rows[part], self.entropy[part])

    def to(self, device: torch.device | str) -> HeadMean:
        """The same on another device."""
        return moved_to(self, device)


@dataclass(frozen=True)
class Heads:
    """What enters an attention: each token looks back inside its own document.

    queries: (tokens, heads, width), keys, values: (tokens, kv heads, width), after rotary positions where there are
    any. edges: int32 (documents + 1,), where documents begin among the tokens. scale: of a query's product with a key.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    edges: Tensor
    scale: float

    def to(self, device: torch.device | str) -> Heads:
        """The same on another device."""
        return moved_to(self, device)

    def between(self, begin: int, end: int) -> Heads:
        """The same of the tokens of one row, which begins and ends with a document."""
        part = slice(begin, end)
        inside = _between(self.edges, begin, end)
        return Heads(self.queries[part], self.keys[part], self.values[part], inside, self.scale)


@dataclass(frozen=True)
class Mixing:
    """What enters a mixer that carries a state: the matrix that it applies to its tokens, in factors.

    write, read: (tokens, groups, state), of which group g serves heads g * r to g * r + r - 1. log_decay: (tokens,
    heads). scale: (tokens, heads), by which a value is written, or None for 1. skip: (heads,), what a token keeps of
    itself. edges: int32 (documents + 1,), where documents begin among the tokens.
    """

    write: Tensor
    read: Tensor
    log_decay: Tensor
    scale: Tensor | None
    skip: Tensor
    edges: Tensor

    def between(self, begin: int, end: int) -> Mixing:
        """The same of the tokens of one row, which begins and ends with a document."""
        part = slice(begin, end)
        scale = None if self.scale is None else self.scale[part]
        inside = _between(self.edges, begin, end)
        each = (self.write[part], self.read[part], self.log_decay[part])
        return Mixing(*each, scale, self.skip, inside)


def _between(edges: Tensor, begin: int, end: int) -> Tensor:
    """The edges of one row, counted from its first token."""
    return edges[(edges >= begin) & (edges <= end)] - begin
