"""Attention transfer: tokens of the student must relate to one another as the teacher's do."""

import math
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives import _attention
from limbeck.objectives._attention import Document
from limbeck.types import Heads, Rows

Relation = Literal["queries", "keys", "values"]


def attention_transfer(
    student: Heads,
    teacher: Heads,
    rows: Rows,  # noqa: ARG001
    *,
    compare: Literal["relations", "scores"] = "relations",
    of: Annotated[tuple[Relation, ...], Field(min_length=1)] = ("queries", "keys", "values"),
    relation_heads: Annotated[int, Field(gt=0)] | None = None,
) -> Tensor:
    """At each token, how far the student's relations to the tokens before it are from the teacher's.

    student, teacher: Heads of every token. rows: not used. Returns (tokens,), never reduced.
    relations: KL(teacher || student) of softmax(A A^T / sqrt(width)) for each A of `of`, the mean over relation heads,
    summed over `of` (MiniLM 2; Wang et al., 2021). Head counts and widths may differ: channels are regrouped into
    `relation_heads`, by default the largest number that divides all head counts.
    scores: mean squared difference over heads and seen tokens of q k^T before the softmax (TinyBERT; Jiao et al.,
    2020). Both need the same number of heads; soft-caps and windows of a family are not in it.
    The cost is time^2 products a head and a tap, on both sides, computed twice: what sdpa never writes down.
    """
    if compare == "scores":
        return _scores(student, teacher)
    heads = relation_heads or _common(student, teacher)
    for side, found in (("student", student), ("teacher", teacher)):
        for name in of:
            channels = math.prod(getattr(found, name).shape[1:])
            if channels % heads:
                raise RecipeError(
                    f"attention_transfer: relation_heads {heads} found; the {side}'s {name} have {channels} channels, "
                    "which it must divide. Leave it out for one that fits all."
                )
    values = [
        _attention.by_rows(student, teacher, (name,), partial(_relation_gap, heads)) for name in of
    ]
    return torch.stack(values).sum(0)


def _common(student: Heads, teacher: Heads) -> int:
    """The largest number that divides all head counts."""
    counts = [part.shape[1] for side in (student, teacher) for part in (side.queries, side.keys)]
    return math.gcd(*counts)


def _relation_gap(heads: int, student: Document, teacher: Document, part: slice) -> Tensor:
    """KL(teacher || student) at some rows of a document: (rows,)."""
    log_q = _attention.log_relations(_attention.regrouped(student[0], heads), part)
    with torch.no_grad():
        log_p = _attention.log_relations(_attention.regrouped(teacher[0], heads), part)
    # What is not seen has probability 0 and the log -inf, of which 0 * (-inf - -inf) would be NaN.
    gaps = torch.where(log_p.isneginf(), 0.0, log_p.exp() * (log_p - log_q.to(log_p.dtype)))
    return gaps.sum(-1).mean(0)


def _scores(student: Heads, teacher: Heads) -> Tensor:
    mine, theirs = student.queries.shape[1], teacher.queries.shape[1]
    if mine != theirs:
        raise RecipeError(
            f"attention_transfer: scores of {mine} heads beside {theirs} of the teacher; wanted as many. Say "
            "'compare: relations', which regroups heads."
        )
    gap = partial(_score_gap, student.scale, teacher.scale)
    return _attention.by_rows(student, teacher, ("queries", "keys"), gap)


def _score_gap(
    scale: float, other: float, student: Document, teacher: Document, part: slice
) -> Tensor:
    """The mean over heads and seen tokens of squared differences at some rows of a document: (rows,)."""
    with torch.no_grad():
        wanted = _products(teacher, part) * other
    seen = _attention.seen(part, wanted.shape[-1], wanted.device)
    squared = (_products(student, part) * scale - wanted).square()
    return torch.where(seen, squared, 0.0).sum(-1).mean(0) / seen.sum(-1)


def _products(document: Document, part: slice) -> Tensor:
    """Queries of some rows times all keys: (heads, rows, time)."""
    queries, keys = document
    every = _attention.repeated(keys, queries.shape[1])
    return torch.einsum("rhw,thw->hrt", queries[part], every)
