"""The slope of a chunk's logits and the values of its terms, without a graph over (tokens, vocab).

One rule holds for every kind of target: with a term's derivative d by the student's log-probabilities q, the slope of
the logits is d - q * sum(d). Dense teachers have it in one compiled pass over both rows of logits. What was kept of a
teacher needs a pass for the student's log-sum and one that spreads q; the few kept ids are put right beside.
Cross-entropy is one more kept id. Nothing is projected twice, whatever the divergence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives import _rows
from limbeck.objectives._buffers import parts
from limbeck.objectives._fusion import Fused, Fusion
from limbeck.objectives._kept import (
    against,
    refuse_kind,
    refuse_shapes,
)
from limbeck.objectives._rows import Finish
from limbeck.objectives.forward_kl import check_temperature
from limbeck.types import HeadLike, HeadMean, Rows, Sampled, TopK

T = TypeVar("T", Sampled, HeadMean)
# Ids of a mean row's product at one time: float32 copies of so many rows of the head.
_MEAN_IDS = 8192


@dataclass(frozen=True)
class Found:
    """Of a chunk: the sum of each term (terms,), and of a HeadMean the slope of the hidden states."""

    sums: Tensor
    beside: Tensor | None = None


def dense(
    raw: Tensor, other: Tensor, rows: Rows, fusion: Fusion, finishes: tuple[Finish, Finish]
) -> Found:
    """A teacher's raw logits beside. raw and other: (tokens, vocab); raw becomes the slope."""
    if raw.shape != other.shape:
        refuse_shapes(other, raw)
    mine, theirs = finishes
    job = _rows.comparison(fusion.pairs, len(fusion.temperatures), fusion.labelled, mine, theirs)
    labels, weights = rows.labels.unsqueeze(-1), rows.weights.to(fusion.precise)
    at_label, _ = _at(raw, labels, mine)
    sides = [raw, other, weights.unsqueeze(-1), labels]
    lean = all(pair.is_forward_kl for pair in fusion.pairs)
    values, whole = _rows.compare(sides, fusion.constants, job, lean=lean)
    divergences = iter(values.unbind(-1))
    each = [
        whole - at_label.squeeze(-1) if term.between is None else next(divergences) * term.scale
        for term in fusion.terms
    ]
    return Found(torch.stack([_weighed(value, weights) for value in each]))


def topk(raw: Tensor, teacher: TopK, rows: Rows, fusion: Fusion, finish: Finish) -> Found:
    """The teacher's kept ids beside: the graph is over (tokens, k) only. raw becomes the slope."""
    inverse, weights = fusion.inverse, rows.weights.to(fusion.precise)
    at_label, by_label = _at(raw, rows.labels.unsqueeze(-1), finish)
    kept, by_kept = _at(raw, teacher.ids, finish)
    _put(raw, teacher.ids, kept.new_full((), -torch.inf))
    others = _rows.log_sums(raw, inverse, finish)  # (tokens, temperatures), of the ids not kept
    missing = raw.shape[1] - teacher.ids.shape[1]
    with torch.enable_grad():
        kept.requires_grad_()
        beyond = others.detach().clamp(min=-1e30).requires_grad_()
        total, sums = kept.new_zeros(()), []
        for term, coefficient in zip(fusion.terms, fusion.coefficients, strict=True):
            number = fusion.group(term)
            outside = beyond[:, number : number + 1]
            if term.between is None:
                inside = kept.logsumexp(-1, keepdim=True)
                value = torch.logaddexp(inside, outside).squeeze(-1) - at_label.squeeze(-1)
            else:
                log_p, log_q = against(
                    teacher,
                    kept / term.temperature,
                    outside,
                    missing,
                    temperature=term.temperature,
                    tail=term.tail,
                )
                value = term.between(log_p, log_q, **dict(term.options)) * term.scale
            weighed = _weighed(value, weights)
            sums.append(weighed.detach())
            if coefficient != 0:  # a term that is only watched may be infinite
                total = total + coefficient * weighed
        if total.requires_grad:
            by_ids, by_others = torch.autograd.grad(total, (kept, beyond), materialize_grads=True)
        else:  # all terms are only watched
            by_ids, by_others = torch.zeros_like(kept), torch.zeros_like(beyond)
    heights, pull = by_others * inverse, by_ids * by_kept
    if fusion.labelled is not None:
        labels = rows.labels.unsqueeze(-1)
        amount = by_label * (fusion.label_factor * weights)[:, None]
        pull = pull - torch.where(teacher.ids == labels, amount, 0.0)
        at_once = _rows.spread_at(at_label, beyond.detach(), heights, inverse) * by_label
        label_pull = at_once - amount
    _rows.spread(raw, beyond.detach(), heights, inverse, finish)
    if fusion.labelled is not None:
        _put(raw, labels, label_pull)
    _put(raw, teacher.ids, pull)  # after the label, which may be among them
    return Found(torch.stack(sums))


def weighed_ids(
    raw: Tensor, teacher: Sampled | None, rows: Rows, fusion: Fusion, finish: Finish
) -> Found:
    """Targets that are weights on ids: a sampled teacher, the labels, or both; all at temperature 1."""
    inverse, weights = fusion.inverse, rows.weights.to(fusion.precise)
    labels = rows.labels.unsqueeze(-1)
    at_label, by_label = _at(raw, labels, finish)
    sums = _rows.log_sums(raw, inverse, finish)  # (tokens, 1)
    mass = torch.zeros_like(weights)  # the target's total weight on each token, times the term's
    values, pulled = [], 0.0
    asked = teacher if fusion.asks_teacher else None
    at_kept = None if asked is None else _at_flat(raw, asked, finish)
    for term, coefficient in zip(fusion.terms, fusion.coefficients, strict=True):
        if term.between is None:
            values.append((sums - at_label).squeeze(-1))
            mass = mass + coefficient
            continue
        given = check_served(term, teacher)
        assert at_kept is not None  # a teacher that serves was given
        at, _ = at_kept
        each = given.weights.to(fusion.precise)
        log_q = at - sums[given.tokens, 0]
        value = torch.zeros_like(mass).index_add(0, given.tokens, -each * log_q)
        values.append(value if given.entropy is None else value - given.entropy)
        mass = mass.index_add(0, given.tokens, coefficient * each)
        pulled += coefficient
    heights = (mass * weights)[:, None]
    # The pull at labels and kept ids in full precision, before the rest is rounded: at a token of which the student
    # is nearly sure it is the small difference of two numbers near one.
    taken = (fusion.label_factor * weights)[:, None]
    label_pull = by_label * (_rows.spread_at(at_label, sums, heights, inverse) - taken)
    kept_pull = None
    if teacher is not None and at_kept is not None:
        at, by = at_kept
        where = teacher.tokens
        mine = _rows.spread_at(at[:, None], sums[where], heights[where], inverse)[:, 0]
        target = pulled * teacher.weights.to(fusion.precise) * weights[where]
        label = torch.where(teacher.ids == rows.labels[where], taken[where, 0], 0.0)
        kept_pull = by * (mine - target - label)
    _rows.spread(raw, sums, heights, inverse, finish)
    _put(raw, labels, label_pull)
    if teacher is not None and kept_pull is not None:  # after the label, which may be among them
        raw[teacher.tokens, teacher.ids] = kept_pull.to(raw.dtype)
    return Found(torch.stack([_weighed(value, weights) for value in values]))


def mean_rows(
    raw: Tensor, learner: tuple[Tensor, HeadLike], teacher: HeadMean, rows: Rows, fusion: Fusion
) -> Found:
    """A teacher whose ids are summed up already over a frozen head: exact forward KL, and cross-entropy beside it.

    learner: the student's hidden states (tokens, width), and its head. Gives the whole slope of the hidden states,
    added up in full precision: it is the small difference of the student's mean row and the teacher's.
    """
    hidden, head = learner
    weight, finish = head.weight[: head.vocab], Finish(head.scale)
    weights, labels = rows.weights.to(fusion.precise), rows.labels.unsqueeze(-1)
    at_label, _ = _at(raw, labels, finish)
    sums = _rows.log_sums(raw, fusion.inverse, finish)  # (tokens, 1)
    expected = (hidden.to(fusion.precise) * teacher.rows).sum(-1) * finish.scale  # of the logits
    mass, pulled, values = 0.0, 0.0, []
    for term, coefficient in zip(fusion.terms, fusion.coefficients, strict=True):
        mass += coefficient
        if term.between is None:
            values.append((sums - at_label).squeeze(-1))
            continue
        check_served(term, teacher)
        values.append(sums.squeeze(-1) - expected - teacher.entropy)
        pulled += coefficient
    slope = -pulled * teacher.rows.to(fusion.precise)
    slope = slope - fusion.label_factor * weight[rows.labels].to(fusion.precise)
    for ids in parts(raw.shape[1], _MEAN_IDS):
        part = mass * (finish(raw[:, ids]) - sums).exp()
        slope = slope + part @ weight[ids].to(fusion.precise)
    slope = slope * (finish.scale * weights)[:, None]
    return Found(torch.stack([_weighed(value, weights) for value in values]), slope)


def check_served(term: Fused, teacher: T | None) -> T:
    """The teacher; refuses a divergence that its kind cannot serve, and none at all."""
    if teacher is None:
        raise RecipeError("An objective compares with the teacher, who gave no distribution.")
    if not term.is_forward_kl:
        refuse_kind(teacher)
    check_temperature(term.temperature)
    return teacher


def _at(raw: Tensor, ids: Tensor, finish: Finish) -> tuple[Tensor, Tensor | float]:
    """Logits at some ids (tokens, k), and their derivative by the raw ones."""
    logits = finish(raw.gather(1, ids))
    return logits, finish.slope(logits)


def _put(raw: Tensor, ids: Tensor, values: Tensor) -> None:
    """Writes values (tokens, k), or one, over the raw logits at some ids (tokens, k).

    Not by scatter_, which on a CPU takes two copies of all narrow logits for it.
    """
    rows = torch.arange(raw.shape[0], device=raw.device).unsqueeze(-1)
    raw.index_put_((rows, ids), values.to(raw.dtype))


def _at_flat(raw: Tensor, teacher: Sampled, finish: Finish) -> tuple[Tensor, Tensor | float]:
    """The same at the sampled ids, (kept,)."""
    logits = finish(raw[teacher.tokens, teacher.ids])
    return logits, finish.slope(logits)


def _weighed(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum; where, not only a product: an infinite value that does not count must not become NaN."""
    return (torch.where(weights != 0, values, 0.0) * weights).sum()
