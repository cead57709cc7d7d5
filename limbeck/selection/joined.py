"""Records of consecutive tokens, put together as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

from limbeck.types import Drawn, HeadMean, Sampled, TopK

Record = Drawn | Sampled | TopK | HeadMean | Tensor
"""What is kept of some tokens; a Tensor is hidden states (tokens, width)."""
R = TypeVar("R", bound=Record)


def joined(pieces: Sequence[R]) -> R:
    """The record of all tokens of some records of one kind, in order; at least one must be given."""
    first = pieces[0]
    if len(pieces) == 1:
        return first
    if isinstance(first, Tensor):
        return cast(R, torch.cat(cast(list[Tensor], list(pieces))))
    if isinstance(first, Drawn):
        return cast(R, _drawn(cast(Sequence[Drawn], pieces)))
    if isinstance(first, Sampled):
        return cast(R, _sampled(cast(Sequence[Sampled], pieces)))
    names = ("rows", "entropy") if isinstance(first, HeadMean) else ("ids", "logprobs", "rest")
    parts = [_column(pieces, name) for name in names]
    return cast(R, type(first)(*parts))


def _column(pieces: Sequence[Record], name: str, dim: int = 0) -> Tensor:
    return torch.cat([getattr(piece, name) for piece in pieces], dim)


def _drawn(pieces: Sequence[Drawn]) -> Drawn:
    """Tails stand draw after draw: those of each piece are taken apart by draw and put together anew."""
    each = [torch.split(piece.tail_ids, piece.tails.sum(-1).tolist()) for piece in pieces]
    return Drawn(
        _column(pieces, "heads"),
        _column(pieces, "head_ids"),
        _column(pieces, "head_logprobs"),
        _column(pieces, "tails", 1),
        torch.cat([part for draw in zip(*each, strict=True) for part in draw]),
        _column(pieces, "entropy"),
    )


def _sampled(pieces: Sequence[Sampled]) -> Sampled:
    counts = torch.cat([piece.starts.diff() for piece in pieces])
    entropy = _column(pieces, "entropy")
    return Sampled.of(_column(pieces, "ids"), _column(pieces, "weights"), counts, entropy)
