"""What the head operator does with rows of raw logits (rows, vocab), each in few passes over what the cache holds."""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.objectives._compiled import BLOCK, able, rowwise
from limbeck.objectives._kept import at_least_float32

_LOWEST = -1e30
_BITS = math.log2(math.e)


@dataclass(frozen=True)
class Finish:
    """How a family makes logits of hidden @ weight.T: cap * tanh(scale * raw / cap), or scale * raw without a cap."""

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, raw: Tensor) -> Tensor:
        """Logits in float32 or float64, of the same shape; -inf stays -inf."""
        logits = at_least_float32(raw)
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is None:
            return logits
        capped = torch.tanh(logits / self.softcap) * self.softcap
        return torch.where(logits == -torch.inf, logits, capped)

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of the logits by the raw ones."""
        if self.softcap is None:
            return self.scale
        return self.scale * (1 - (logits.clamp(min=-self.softcap) / self.softcap) ** 2)


@dataclass(frozen=True)
class Pair:
    """A divergence of two sets of log-probabilities with its options, and which of the temperatures it has.

    pulls: whether it has a slope, or is only watched.
    """

    between: Callable[..., Tensor]
    options: tuple[tuple[str, Any], ...]
    group: int
    is_forward_kl: bool = False
    pulls: bool = True

    def value(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """(tokens, kept) twice -> (tokens,)."""
        return self.between(log_p, log_q, **dict(self.options))


def log_sums(raw: Tensor, inverse: Tensor, finish: Finish) -> Tensor:
    """Log of the summed exponentials of each row at each temperature: raw (rows, vocab), inverse (n,) -> (rows, n)."""
    return _in_blocks(_log_sums(finish, inverse.shape[0]), raw, [raw], [inverse])[0]


def spread(raw: Tensor, sums: Tensor, heights: Tensor, inverse: Tensor, finish: Finish) -> None:
    """Overwrites raw (rows, vocab) by the sum over n of heights * exp(logits * inverse - sums), both (rows, n)."""
    _in_blocks(_spread(finish, inverse.shape[0]), raw, [raw, sums, heights], [inverse])


def spread_at(logits: Tensor, sums: Tensor, heights: Tensor, inverse: Tensor) -> Tensor:
    """What `spread` makes of a few logits (rows, k), before their slope: (rows, k) in full precision."""
    each = heights.unsqueeze(-1) * _exp(
        logits.unsqueeze(1) * inverse[:, None] - sums.unsqueeze(-1)
    )  # (rows, n, k)
    return each.sum(1)


def compare(
    sides: list[Tensor], constants: Tensor, job: Callable[..., Any], *, lean: bool
) -> tuple[Tensor, Tensor]:
    """Overwrites the student's raw logits (rows, vocab) by the slope of a job that `comparison` made.

    sides: raw, the teacher's raw logits (rows, vocab), weights and labels (rows, 1). constants: factors (terms + 1,)
    and inverse (n,) in one. lean: compiled, it holds nothing of the size of the rows. Returns the values (rows, terms) and, where labels are among the terms, the log-sums at temperature 1
    (rows,).
    """
    size = None if lean and able(sides[0].device.type) else BLOCK
    values, whole = _in_blocks(job, sides[0], sides, [constants], size)
    return values, whole.squeeze(-1)


@functools.lru_cache(64)
def comparison(
    pairs: tuple[Pair, ...], groups: int, labelled: int | None, mine: Finish, theirs: Finish
) -> Callable[..., Any]:
    """A row function for these terms. labelled: which temperature is 1 if cross-entropy is among them, else None."""

    def both(
        raw: Tensor, other: Tensor, weights: Tensor, labels: Tensor, constants: Tensor
    ) -> tuple[Tensor, ...]:
        factors, inverse = constants[:-groups], constants[-groups:]
        logits, teacher = mine(raw), theirs(other)
        student_at = [normalised(logits, inverse[n]) for n in range(groups)]
        teacher_at = [normalised(teacher, inverse[n]) for n in range(groups)]
        slope = torch.zeros_like(logits)
        values = []
        for number, pair in enumerate(pairs):
            p, q = teacher_at[pair.group], student_at[pair.group]
            value, by = _forward_kl(p, q) if pair.is_forward_kl else _divergence(pair, p, q)
            if pair.pulls:
                slope = slope + factors[number] * by
            values.append(value)
        whole = torch.zeros_like(weights)
        if labelled is not None:
            # One from the label here, where the difference is not yet rounded: it is small where q is near one.
            ids = torch.arange(raw.shape[-1], device=raw.device)
            slope = slope + factors[-1] * (student_at[labelled].parts - (ids == labels).to(slope))
            whole = student_at[labelled].whole
        slope = slope * mine.slope(logits) * weights
        # where, not only a product: at a row that does not count an infinite slope must not become NaN.
        raw.copy_(torch.where(weights != 0, slope, 0.0))
        return torch.stack(values, -1), whole

    return rowwise(both) if _steady(pairs) else both


_VARIANTS: collections.Counter[Any] = collections.Counter()
_MOST_VARIANTS = 4


def _steady(pairs: tuple[Pair, ...]) -> bool:
    """Whether it pays to compile: not where an option is another number in each step, as on a ramp."""
    kind = tuple((pair.between, tuple(name for name, _ in pair.options)) for pair in pairs)
    _VARIANTS[kind] += 1
    return _VARIANTS[kind] <= _MOST_VARIANTS


def _exp(logs: Tensor) -> Tensor:
    """The exponential, by way of powers of two: compiled for a CPU they take a third less time."""
    return torch.exp2(logs * _BITS)


@dataclass(frozen=True)
class Normalised:
    """A row as a distribution: logits less their largest (rows, vocab); the sum of their exponentials, its log, and
    the log of the sum over the whole logits (rows, 1).
    """

    below: Tensor
    sum: Tensor
    log: Tensor
    whole: Tensor

    @property
    def logs(self) -> Tensor:
        """Log-probabilities (rows, vocab)."""
        return self.below - self.log

    @property
    def parts(self) -> Tensor:
        """Probabilities (rows, vocab), of the exponentials that were summed."""
        return _exp(self.below) * self.sum.reciprocal()


def normalised(logits: Tensor, inverse: Tensor) -> Normalised:
    """Logits (rows, vocab) at 1 / inverse as a distribution.

    Spelled out, because the compiler takes twice as many passes for log_softmax and logsumexp with their guards.
    """
    most = logits.amax(-1, keepdim=True)
    below = (logits - most) * inverse
    total = _exp(below).sum(-1, keepdim=True)
    return Normalised(below, total, total.log(), most * inverse + total.log())


def _forward_kl(p: Normalised, q: Normalised) -> tuple[Tensor, Tensor]:
    """KL(p || q) (rows,) and its slope by q's logits (rows, vocab).

    As p sums to one, the value comes of the same pass as the sums, and the slope is q - p: two passes fewer.
    """
    apart = torch.where(p.below == -torch.inf, 0.0, p.below - q.below)
    crossed = (_exp(p.below) * apart).sum(-1, keepdim=True)
    value = crossed * p.sum.reciprocal() - p.log + q.log
    return value.squeeze(-1), q.parts - p.parts


def _divergence(pair: Pair, p: Normalised, q: Normalised) -> tuple[Tensor, Tensor]:
    """Any divergence's value (rows,) and its slope by q's logits (rows, vocab)."""
    value, by = _derived(functools.partial(pair.value, p.logs), q.logs)
    return value, by - q.parts * by.sum(-1, keepdim=True)


def _derived(term: Callable[[Tensor], Tensor], log_q: Tensor) -> tuple[Tensor, Tensor]:
    """A term's value (rows,) and its derivative by log_q (rows, vocab), in the way that the compiler understands."""
    if torch.compiler.is_compiling():
        value, pull = cast(Any, torch.func.vjp)(term, log_q)
        return value, pull(torch.ones_like(value))[0]
    with torch.enable_grad():
        leaf = log_q.detach().requires_grad_()
        value = term(leaf)
        (by,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), by


@functools.lru_cache(16)
def _log_sums(finish: Finish, groups: int) -> Callable[..., Any]:
    def job(raw: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
        logits = finish(raw)
        # At least a finite number: a row whose every id is masked has none.
        most = logits.amax(-1, keepdim=True).clamp(min=_LOWEST)
        sums = [_exp((logits - most) * inverse[n]).sum(-1, keepdim=True) for n in range(groups)]
        return (torch.cat([most * inverse[n] + sums[n].log() for n in range(groups)], -1),)

    return rowwise(job)


@functools.lru_cache(16)
def _spread(finish: Finish, groups: int) -> Callable[..., Any]:
    def job(raw: Tensor, sums: Tensor, heights: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
        logits = finish(raw)
        parts = [
            heights[:, n : n + 1] * _exp(logits * inverse[n] - sums[:, n : n + 1])
            for n in range(groups)
        ]
        raw.copy_(functools.reduce(torch.add, parts) * finish.slope(logits))
        return ()

    return rowwise(job)


def _in_blocks(
    job: Callable[..., Any],
    raw: Tensor,
    rows: list[Tensor],
    constants: list[Tensor],
    size: int | None = BLOCK,
) -> list[Tensor]:
    """A row function over all rows: on a CPU `size` at a time, if given, so that what it holds of them stays near.

    What it returns for each block is joined.
    """
    count = raw.shape[0]
    if size is None or raw.device.type != "cpu":
        size = max(count, 1)
    found: list[tuple[Tensor, ...]] = []
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        found.append(cast(tuple[Tensor, ...], job(*(one[part] for one in rows), *constants)))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]
