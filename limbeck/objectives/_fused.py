"""The slope of a chunk's logits and the values of its terms, without a graph over (tokens, vocab).

One rule holds for every kind of target: with a term's derivative d by the student's log-probabilities q, the slope of
the logits is d - q * sum(d). Dense teachers have it in one compiled pass over both rows of logits. What was kept of a
teacher needs a pass for the student's log-sum and one that spreads q; the few kept ids are put right beside.
Cross-entropy is one more kept id. Nothing is projected twice, whatever the divergence.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.objectives import _rows
from limbeck.objectives._kept import Tail, against, refuse_kind
from limbeck.objectives._rows import Finish, Pair
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import check_temperature, forward_kl
from limbeck.types import HeadMean, Rows, Sampled, TopK


@dataclass(frozen=True)
class Fused:
    """A term that the operator knows: a divergence between two sides, or cross-entropy, where `between` is None."""

    between: Callable[..., Tensor] | None
    options: tuple[tuple[str, Any], ...]
    temperature: float
    tail: Tail
    scale: float
    is_forward_kl: bool


@dataclass(frozen=True)
class Found:
    """Of a chunk: the sum of each term (terms,), and of a HeadMean what is added to the hidden states' slope."""

    sums: Tensor
    beside: Tensor | None = None


class Fusion:
    """Terms that can all be fused, with their coefficients, of the precision and on the device of `like`. `of` gives None where one cannot be."""

    def __init__(
        self, terms: tuple[Fused, ...], coefficients: Sequence[float], like: Tensor
    ) -> None:
        self.terms = terms
        self.coefficients = [float(value) for value in coefficients]
        self.precise = torch.float64 if like.dtype == torch.float64 else torch.float32
        wanted = {1.0 if term.between is None else term.temperature for term in terms}
        self.temperatures = sorted(wanted)
        # Made once for all chunks: each would wait for a device.
        factors = [
            coefficient * term.scale / term.temperature
            for term, coefficient in zip(terms, self.coefficients, strict=True)
            if term.between is not None
        ]
        inverse = [1 / temperature for temperature in self.temperatures]
        self.factors = torch.tensor(
            [*factors, self.label_factor], dtype=self.precise, device=like.device
        )  # (divergences + 1,)
        self.inverse = torch.tensor(inverse, dtype=self.precise, device=like.device)

    @classmethod
    def of(cls, terms: Sequence[Any], coefficients: Sequence[float], like: Tensor) -> Fusion | None:
        """The terms as the operator sees them, or None where one of them needs the graph."""
        found = [_fused(term) for term in terms]
        if not found or None in found:
            return None
        return cls(tuple(cast(list[Fused], found)), coefficients, like)

    def group(self, term: Fused) -> int:
        """Which of the temperatures it has."""
        return self.temperatures.index(1.0 if term.between is None else term.temperature)

    @property
    def asks_teacher(self) -> bool:
        """Whether any term compares with the teacher."""
        return any(term.between is not None for term in self.terms)

    @property
    def labelled(self) -> int | None:
        """Which of the temperatures is 1, if cross-entropy is among the terms."""
        given = any(term.between is None for term in self.terms)
        return self.temperatures.index(1.0) if given else None

    @property
    def label_factor(self) -> float:
        """The coefficient of cross-entropy."""
        pairs = zip(self.terms, self.coefficients, strict=True)
        return sum(coefficient for term, coefficient in pairs if term.between is None)


def dense(
    raw: Tensor, other: Tensor, rows: Rows, fusion: Fusion, finishes: tuple[Finish, Finish]
) -> Found:
    """A teacher's raw logits beside. raw and other: (tokens, vocab); raw becomes the slope."""
    mine, theirs = finishes
    kinds = [term for term in fusion.terms if term.between is not None]
    pairs = tuple(
        Pair(cast(Any, term.between), term.options, fusion.group(term), term.is_forward_kl)
        for term in kinds
    )
    constants = (fusion.factors, fusion.inverse)
    job = _rows.comparison(pairs, len(fusion.temperatures), fusion.labelled, mine, theirs)
    at_label, by_label = _at(raw, rows.labels.unsqueeze(-1), mine)
    weights = rows.weights.to(fusion.precise)
    values, whole = _rows.compare(raw, other, weights, constants, job)
    if fusion.labelled is not None:
        _take(raw, rows.labels.unsqueeze(-1), by_label * (fusion.label_factor * weights)[:, None])
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
    raw.scatter_(1, teacher.ids, -torch.inf)
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
            total = total + coefficient * weighed
        by_ids, by_others = torch.autograd.grad(total, (kept, beyond), materialize_grads=True)
    _rows.spread(raw, beyond.detach(), by_others * inverse, inverse, finish)
    raw.scatter_(1, teacher.ids, (by_ids * by_kept).to(raw.dtype))
    if fusion.labelled is not None:
        _take(raw, rows.labels.unsqueeze(-1), by_label * (fusion.label_factor * weights)[:, None])
    return Found(torch.stack(sums))


def weighed_ids(
    raw: Tensor, teacher: Sampled | None, rows: Rows, fusion: Fusion, finish: Finish
) -> Found:
    """Targets that are weights on ids: a sampled teacher, the labels, or both; all at temperature 1."""
    inverse, weights = fusion.inverse, rows.weights.to(fusion.precise)
    labels = rows.labels.unsqueeze(-1)
    at_label, by_label = _at(raw, labels, finish)
    sums = _rows.log_sums(raw, inverse, finish)[:, 0]  # (tokens,)
    mass = torch.zeros_like(sums)  # the target's total weight on each token, times the term's
    values, taken = [], None
    for term, coefficient in zip(fusion.terms, fusion.coefficients, strict=True):
        if term.between is None:
            values.append(sums - at_label.squeeze(-1))
            mass = mass + coefficient
            continue
        assert teacher is not None
        check_served(term, teacher)
        at, by = _at_flat(raw, teacher, finish)
        each = teacher.weights.to(fusion.precise)
        log_q = at - sums[teacher.tokens]
        value = torch.zeros_like(sums).index_add(0, teacher.tokens, -each * log_q)
        values.append(value if teacher.entropy is None else value - teacher.entropy)
        mass = mass.index_add(0, teacher.tokens, coefficient * each)
        taken = by * coefficient * each * weights[teacher.tokens]
    _rows.spread(raw, sums[:, None], (mass * weights)[:, None], inverse, finish)
    if taken is not None and teacher is not None:
        places = teacher.tokens * raw.shape[1] + teacher.ids
        raw.view(-1).index_add_(0, places, -taken.to(raw.dtype))
    if fusion.labelled is not None:
        _take(raw, labels, by_label * (fusion.label_factor * weights)[:, None])
    return Found(torch.stack([_weighed(value, weights) for value in values]))


def mean_rows(
    raw: Tensor, hidden: Tensor, teacher: HeadMean, rows: Rows, fusion: Fusion, finish: Finish
) -> Found:
    """A teacher whose ids are summed up already over a frozen head: exact forward KL, and cross-entropy beside it.

    hidden: the student's (tokens, width). raw becomes the slope of the part that the student's own q makes.
    """
    inverse, weights = fusion.inverse, rows.weights.to(fusion.precise)
    labels = rows.labels.unsqueeze(-1)
    at_label, by_label = _at(raw, labels, finish)
    sums = _rows.log_sums(raw, inverse, finish)[:, 0]  # (tokens,)
    expected = (hidden.to(fusion.precise) * teacher.rows).sum(-1) * finish.scale  # of the logits
    mass, beside, values = 0.0, torch.zeros_like(teacher.rows), []
    for term, coefficient in zip(fusion.terms, fusion.coefficients, strict=True):
        mass += coefficient
        if term.between is None:
            values.append(sums - at_label.squeeze(-1))
            continue
        check_served(term, teacher)
        values.append(sums - expected - teacher.entropy)
        beside = beside - (coefficient * finish.scale * weights)[:, None] * teacher.rows
    _rows.spread(raw, sums[:, None], (mass * weights)[:, None], inverse, finish)
    if fusion.labelled is not None:
        _take(raw, labels, by_label * (fusion.label_factor * weights)[:, None])
    return Found(torch.stack([_weighed(value, weights) for value in values]), beside)


def check_served(term: Fused, teacher: Sampled | HeadMean) -> None:
    """Refuses a divergence that the kind of teacher cannot serve."""
    if not term.is_forward_kl:
        refuse_kind(teacher)
    check_temperature(term.temperature)


def _at(raw: Tensor, ids: Tensor, finish: Finish) -> tuple[Tensor, Tensor | float]:
    """Logits at some ids (tokens, k), and their derivative by the raw ones."""
    logits = finish(raw.gather(1, ids))
    return logits, finish.slope(logits)


def _at_flat(raw: Tensor, teacher: Sampled, finish: Finish) -> tuple[Tensor, Tensor | float]:
    """The same at the sampled ids, (kept,)."""
    logits = finish(raw[teacher.tokens, teacher.ids])
    return logits, finish.slope(logits)


def _take(raw: Tensor, ids: Tensor, amounts: Tensor) -> None:
    """Subtracts amounts (tokens, 1) at one id a token."""
    raw.scatter_add_(1, ids, -amounts.to(raw.dtype))


def _weighed(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum; where, not only a product: an infinite value that does not count must not become NaN."""
    return (torch.where(weights != 0, values, 0.0) * weights).sum()


@functools.lru_cache(64)
def _sides(function: Any) -> tuple[Any, dict[str, Any]] | None:
    """An objective's `between` and the defaults of its options, or None where it has none."""
    between = vars(sys.modules[function.__module__]).get("between")
    parameters = inspect.signature(function).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    if between is None or not {"temperature", "tail", "scale_t2"} <= set(defaults):
        return None
    return between, defaults


def _fused(term: Any) -> Fused | None:
    """A term as the operator sees it, or None where it needs the graph."""
    bound = isinstance(term, functools.partial)
    function: Any = term.func if bound else term
    if not inspect.isfunction(function):
        return None
    if function is cross_entropy:
        return Fused(None, (), 1.0, "bucket", 1.0, is_forward_kl=False)
    name = function.__name__
    if function.__module__.rpartition(".")[2] != name or (sides := _sides(function)) is None:
        return None
    between, defaults = sides
    options = defaults | (dict(term.keywords) if bound else {})
    temperature, tail = options.pop("temperature"), options.pop("tail")
    scale = temperature**2 if options.pop("scale_t2") else 1.0
    mine = tuple(sorted(options.items()))
    return Fused(between, mine, temperature, tail, scale, function is forward_kl)
