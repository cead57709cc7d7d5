"""Terms between taps: which tensors of both sides they compare, on which tokens, and the sum that comes of it.

The mean of a term over all tokens is what the loop divides out, so a term on few tokens counts each for those that
were left out, and a relation counts each row by the weight of its tokens: no batch split changes a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.models import forcing
from limbeck.models import taps as places
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.recipe import Linked
from limbeck.selection.share import keyed
from limbeck.training import share
from limbeck.training.at_once import summed, weighed
from limbeck.types import Batch, Feature, Heads, Mixing, Objective, Rows, Signal, Units, Wanted

Kind = Literal["features", "units", "heads", "mixing"]
_KINDS: dict[Any, Kind] = {Feature: "features", Units: "units", Heads: "heads", Mixing: "mixing"}
DEEP = ("heads", "mixing")
"""What is seen inside an attention or a mixer, and not behind a module."""


@dataclass(frozen=True)
class Joint:
    """One tap of the student and the teacher's, found in both models. widths: (student's, teacher's), or None inside of attention.

    projector: its name in the Step, or "" where the student's tap is compared as it is.
    """

    student: str
    teacher: str
    widths: tuple[int, int] | None = None
    projector: str = ""


@dataclass(frozen=True)
class Tied:
    """An objective between taps with all that it is told. step: the number that its choice of tokens follows from.

    forced: each of the student's blocks is given what the teacher's block of its number is given.
    """

    function: Objective
    kind: Kind
    joints: tuple[Joint, ...]
    linked: Linked
    seed: int
    step: int = 0
    forced: bool = False

    def bound(self, options: dict[str, Any], step: int) -> Tied:
        """The same with the objective's own options, at a step."""
        return replace(self, function=partial(self.function, **options), step=step)


@dataclass(frozen=True)
class Inside:
    """What a forward has shown inside the student: features {tap: (tokens, width)} of tokens that count, heads and mixing.

    beside: {tap: (held, width)}, what the teacher has, as the student's own projection at that tap gives it.
    """

    features: dict[str, Tensor]
    heads: dict[str, Heads | Mixing]
    projectors: nn.ModuleDict
    beside: dict[str, Tensor] = field(default_factory=dict)

    def at(self, joint: Joint, places: Tensor) -> Tensor:
        """The features of some tokens, as the teacher's are to be compared with: (chosen, width)."""
        found = _at(self.features[joint.student], places)
        return self.projectors[joint.projector](found) if joint.projector else found


def kind_of(annotation: Any) -> Kind | None:
    """What an objective compares, told by the type of its `student`; None: what models say of the next token."""
    return _KINDS.get(annotation)


def taps(terms: Sequence[Any], side: Literal["student", "teacher"]) -> Wanted:
    """What these terms want to see inside one of the models."""
    tied = [term for term in terms if isinstance(term, Tied)]
    features, heads = (
        tuple(
            dict.fromkeys(
                getattr(joint, side)
                for term in tied
                if (term.kind in DEEP) == deep
                for joint in term.joints
            )
        )
        for deep in (False, True)
    )
    return Wanted(features=features, heads=heads)


def handed(terms: Sequence[Any], teacher: Signal | None) -> dict[str, Tensor]:
    """What the student's projections are to take of the teacher: {student's tap: (held, wide)}."""
    return {
        joint.student: teacher.features[joint.teacher]
        for term in terms
        if isinstance(term, Tied) and term.linked.teacher_projected and teacher is not None
        for joint in term.joints
    }


def forced(terms: Sequence[Any]) -> list[int]:
    """The blocks that are given what the teacher's are given, in order."""
    found = {
        places.block(joint.student)
        for term in terms
        if isinstance(term, Tied) and term.forced
        for joint in term.joints
    }
    return sorted(number for number in found if number is not None)


def mixers_alone(terms: Sequence[Any]) -> bool:
    """Whether no term sees anything of a block behind its mixer."""
    before = ("mamba", "self_attn", "input_layernorm")
    taps = [joint.student.split(".") for term in terms for joint in term.joints]
    return all(len(tap) > 2 and tap[2] in before for tap in taps)


def wanted(students: Sequence[Sequence[Any]]) -> Wanted:
    """What is asked of one teacher for the terms of several students. Cross-entropy asks for nothing."""
    every = [term for terms in students for term in terms]
    seen = taps(every, "teacher")
    said = any(not isinstance(term, Tied) and term is not cross_entropy for term in every)
    entering = tuple(forcing.entering(number) for number in forced(every))
    features = tuple(dict.fromkeys(seen.features + entering))
    return replace(seen, distribution=said, features=features)


def total(term: Tied, batch: Batch, inside: Inside, teacher: Signal) -> Tensor:
    """The sum of a term over its joints and the tokens that count, each by its weight: a scalar with a graph."""
    rows = batch.rows
    if term.kind == "heads":
        each = [
            batch.pick(
                term.function(inside.heads[joint.student], teacher.heads[joint.teacher], rows)
            )
            for joint in term.joints
        ]
        return torch.stack([weighed(values, rows.weights) for values in each]).sum()
    if term.kind == "mixing":
        return torch.stack(
            [_by_row(term, batch, joint, inside, teacher) for joint in term.joints]
        ).sum()
    taken = _taken(term, batch, teacher.held)
    there = _where(taken.places, teacher.held)
    pairs = [
        (
            inside.at(joint, taken.places),
            _at(_theirs(term, joint, inside, teacher), there),
        )
        for joint in term.joints
    ]
    if term.kind == "features":
        some = rows if taken.places.numel() == rows.labels.numel() else rows[taken.places]
        weights = some.weights * taken.factors

        sums = [summed(term.function, *pair, some, weights) for pair in pairs]
    elif term.linked.units == "rows":
        sums = [_pooled(term, batch, taken, pair) for pair in pairs]
    else:
        sums = [_among_tokens(term, rows, taken, pair) for pair in pairs]
    return torch.stack(sums).sum()


def _by_row(term: Tied, batch: Batch, joint: Joint, inside: Inside, teacher: Signal) -> Tensor:
    """A matrix of each row, of a mixer of the student and an attention of the teacher."""
    mine, theirs = inside.heads[joint.student], teacher.heads[joint.teacher]
    size, time = batch.input_ids.shape
    flat = Rows(
        batch.labels.flatten(),
        batch.weights.flatten(),
        batch.position_ids.flatten(),
        batch.document_ids.flatten(),
    )
    sums = []
    for begin in range(0, size * time, time):
        part, rows = (begin, begin + time), flat[begin : begin + time]
        values = term.function(mine.between(*part), theirs.between(*part), rows)
        sums.append(weighed(values, rows.weights))
    return torch.stack(sums).sum()


def _theirs(term: Tied, joint: Joint, inside: Inside, teacher: Signal) -> Tensor:
    """The teacher's features (held, width) that a joint compares with."""
    if term.linked.teacher_projected:
        return inside.beside[joint.student]
    return teacher.features[joint.teacher].detach()


def _at(vectors: Tensor, places: Tensor) -> Tensor:
    """The vectors at places that rise, (places, width); those at all places are they themselves."""
    return vectors if places.numel() == vectors.shape[0] else vectors.index_select(0, places)


def _taken(term: Tied, batch: Batch, held: Tensor | None) -> share.Share:
    """The tokens that a term looks at."""
    few = term.kind == "units" and term.linked.units == "tokens"
    most = term.linked.max_units if few else None
    if term.linked.token_share == 1 and most is None and held is None:
        return share.every(batch)
    keys = tuple(keyed(address, term.seed, term.step) for address in batch.addresses)
    return share.chosen(batch, keys, term.linked.token_share, most=most, held=held)


def _where(places: Tensor, held: Tensor | None) -> Tensor:
    """Where tokens stand among those that are held, which rise."""
    return places if held is None else torch.searchsorted(held, places)


def _among_tokens(
    term: Tied, rows: Rows, taken: share.Share, pair: tuple[Tensor, Tensor]
) -> Tensor:
    """Relations among the tokens of each row; a row counts by the weight of all its tokens."""
    sums = [pair[0].sum() * 0.0]
    begin = 0
    for number, size in enumerate(taken.sizes.tolist()):
        part = slice(begin, begin + size)
        begin += size
        if size:
            values = term.function(pair[0][part], pair[1][part], rows[taken.places[part]])
            sums.append(values.mean() * taken.whole[number])
    return torch.stack(sums).sum()


def _pooled(term: Tied, batch: Batch, taken: share.Share, pair: tuple[Tensor, Tensor]) -> Tensor:
    """Relations among the rows of a micro-batch, each the mean of its tokens, a group of `max_units` at a time."""
    sizes = taken.sizes.to(pair[0].device)
    filled = sizes.nonzero().squeeze(-1)
    if not filled.numel():
        return pair[0].sum() * 0.0
    owner = torch.arange(filled.numel(), device=sizes.device).repeat_interleave(sizes[filled])
    mine, theirs = (_means(side, owner, sizes[filled]) for side in pair)
    first = taken.places[sizes.cumsum(0)[filled] - 1]
    rows, whole = batch.rows[first], taken.whole[filled]
    most = term.linked.max_units
    sums = []
    for start in range(0, filled.numel(), most):
        part = slice(start, start + most)
        values = term.function(mine[part], theirs[part], rows[part])
        sums.append(values.mean() * whole[part].sum())
    return torch.stack(sums).sum()


def _means(vectors: Tensor, owner: Tensor, sizes: Tensor) -> Tensor:
    """The mean of each owner's vectors, in at least float32: (tokens, width) -> (owners, width)."""
    precise = vectors if vectors.dtype == torch.float64 else vectors.float()
    whole = precise.new_zeros(sizes.numel(), vectors.shape[1]).index_add(0, owner, precise)
    return whole / sizes.to(precise.dtype)[:, None]
