"""Output head and objectives over chunks of tokens: (tokens, vocab) never exists, on neither side.

The gradient of a chunk's logits is used as soon as it is made, in the forward pass, so nothing is computed twice and
what is kept for the backward pass is one gradient of the hidden states and one of the head. Known objectives take the
operator of _fused.py; any other has a graph over one chunk.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives import _fused
from limbeck.objectives._buffers import (
    Gradients,
    Room,
    parts,
    product,
    rows_at_once,
)
from limbeck.objectives._fused import Found
from limbeck.objectives._fusion import Fusion
from limbeck.objectives._kept import at_least_float32
from limbeck.objectives._rows import Finish
from limbeck.types import Distribution, HeadLike, HeadMean, Rows, Sampled, Signal, TopK

Term = Callable[[Tensor, Distribution | None, Rows], Tensor]
"""An objective with its options filled in."""


def chunked(
    hidden: Tensor,
    head: HeadLike,
    teacher: Signal | None,
    rows: Rows,
    terms: Sequence[Term],
    coefficients: Sequence[float],
    *,
    chunk: int | None = None,
    room: Room | None = None,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of every term over all tokens, and their total with its gradient.

    hidden: the student's (tokens, width). teacher: a Signal of the same tokens, or None if no term asks for one.
    chunk: tokens that hold logits at one time; None takes what suits the device. room: keeps buffers between calls.
    Returns (total, sums). sums: (terms,), each the sum over tokens of rows.weights times the term, detached.
    total: scalar, the sum of coefficients times sums; its gradient reaches hidden, head.weight and head.bias.
    """
    learning = torch.is_grad_enabled()
    parts = (hidden, head.weight, head.bias)
    wanted = tuple(learning and part is not None and part.requires_grad for part in parts)
    fusion = Fusion.of(terms, coefficients, hidden)
    size = chunk or rows_at_once(hidden.device)
    job = _Job(
        head, teacher, rows, tuple(terms), tuple(coefficients), size, wanted, fusion, room or Room()
    )
    total, sums = cast(Any, _Chunked.apply)(hidden, head.weight, head.bias, job)
    return total, sums


def whole(
    hidden: Tensor,
    head: HeadLike,
    teacher: Signal | None,
    rows: Rows,
    terms: Sequence[Term],
    coefficients: Sequence[float],
    *,
    chunk: int | None = None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """What `chunked` computes, in the plain way that holds (tokens, vocab): the reference to test and time against.

    hidden: (tokens, width). Returns (total, sums): scalar and (terms,).
    """
    student = head(hidden)
    distribution = None
    if teacher is not None:
        with torch.no_grad():
            distribution = teacher.distribution(slice(0, hidden.shape[0]))
    return _sums(student, distribution, rows, terms, coefficients)


@dataclass(frozen=True)
class _Job:
    """What `_Chunked` needs besides the tensors that autograd follows. wanted: hidden, weight, bias."""

    head: HeadLike
    teacher: Signal | None
    rows: Rows
    terms: tuple[Term, ...]
    coefficients: tuple[float, ...]
    chunk: int
    wanted: tuple[bool, ...]
    fusion: Fusion | None
    room: Room

    @property
    def weight(self) -> Tensor:
        """The rows of the head that are real ids: (vocab, width)."""
        return self.head.weight[: self.head.vocab]


def _sums(
    student: Tensor,
    distribution: Distribution | None,
    rows: Rows,
    terms: Sequence[Term],
    coefficients: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Total and sums of the tokens at hand. student: logits (tokens, vocab)."""
    precise = at_least_float32(student)
    total = precise.new_zeros(())
    sums = []
    counts = rows.weights != 0
    for term, coefficient in zip(terms, coefficients, strict=True):
        values = term(precise, distribution, rows)  # (tokens,)
        # where, not only a product: at a token that does not count an infinite value must not become NaN.
        value = (torch.where(counts, values, 0.0) * rows.weights).sum().to(precise.dtype)
        sums.append(value.detach())
        if coefficient != 0:
            total = total + coefficient * value
    return total, torch.stack(sums) if sums else precise.new_zeros(0)


def _fused_part(job: _Job, hidden: Tensor, part: slice) -> tuple[Tensor | None, Found]:
    """The slope of the raw logits (chunk, vocab) of some tokens, and the sums of the terms. hidden: (chunk, width)."""
    assert job.fusion is not None
    head, rows, fusion = job.head, job.rows[part], job.fusion
    finish = Finish(head.scale, head.softcap)
    signal = job.teacher if fusion.asks_teacher else None
    live = signal is not None and signal.head is not None and signal.hidden is not None
    distribution = None if signal is None or live else signal.distribution(part)
    # A cap bends logits as they are, and a mean row is of logits as they are. Beside a live teacher only the
    # teacher's are centred: its likely ids have the larger ones, and both would take a twentieth of the head's time.
    centred = not live and head.softcap is None and not isinstance(distribution, HeadMean)
    raw = product(job.room, "student", hidden, head, centred=centred)
    if signal is not None and live:
        return raw, _beside_live(job, raw, part, signal)
    if isinstance(distribution, TopK):
        return raw, _fused.topk(raw, distribution, rows, fusion, finish)
    if isinstance(distribution, HeadMean):
        _check_mean(job)
        return None, _fused.mean_rows(raw, (hidden, head), distribution, rows, fusion)
    if distribution is None or isinstance(distribution, Sampled):
        return raw, _fused.weighed_ids(raw, distribution, rows, fusion, finish)
    return raw, _fused.dense(raw, distribution, rows, fusion, (finish, Finish()))


def _beside_live(job: _Job, raw: Tensor, part: slice, signal: Signal) -> Found:
    """Turns the student's raw logits (chunk, vocab) into their slope. signal: hidden states of all tokens and head."""
    assert job.fusion is not None
    assert signal.hidden is not None
    teacher = signal.head
    assert teacher is not None
    finishes = (
        Finish(job.head.scale, job.head.softcap),
        Finish(teacher.scale, teacher.softcap),
    )
    centred = teacher.softcap is None
    other = product(job.room, "teacher", signal.hidden[part], teacher, centred=centred)
    return _fused.dense(raw, other, job.rows[part], job.fusion, finishes)


def _check_mean(job: _Job) -> None:
    if job.wanted[1] or job.head.bias is not None or job.head.softcap is not None:
        raise RecipeError(
            "The teacher was recorded as 'kl-vector', which holds for one frozen student head without bias and "
            "soft-cap. Freeze the head (a LoRA student), or record another teacher.cached.kind."
        )


def _graph_part(job: _Job, hidden: Tensor, part: slice) -> tuple[Tensor | None, Found]:
    """The same by autograd over one chunk, for terms that the operator does not know."""
    raw = at_least_float32(torch.nn.functional.linear(hidden, job.weight, _bias(job.head)))
    distribution = None if job.teacher is None else job.teacher.distribution(part)
    with torch.set_grad_enabled(any(job.wanted)):
        raw.requires_grad_(any(job.wanted))
        student = Finish(job.head.scale, job.head.softcap)(raw)
        total, sums = _sums(student, distribution, job.rows[part], job.terms, job.coefficients)
    slope = torch.autograd.grad(total, raw)[0] if total.requires_grad else None
    return slope, Found(sums)


def _bias(head: HeadLike) -> Tensor | None:
    return None if head.bias is None else head.bias[: head.vocab]


class _Chunked(torch.autograd.Function):
    """The gradient is made in forward; backward only multiplies it by the gradient of the scalar total."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, Tensor]:
        chunks = parts(hidden.shape[0], job.chunk)
        gradients = Gradients(
            hidden, weight, bias, room=job.room, wanted=job.wanted, chunks=len(chunks)
        )
        precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        sums = hidden.new_zeros(len(job.terms), dtype=precise)
        for part in chunks:
            some = hidden[part]
            if job.fusion is None:
                slope, found = _graph_part(job, some, part)
            else:
                slope, found = _fused_part(job, some, part)
            # Outside of any graph: recorded, these products would keep each chunk's slope.
            if slope is not None and any(job.wanted):
                gradients.add(part, slope, some, job.weight)
            if found.beside is not None and gradients.hidden is not None:
                gradients.hidden[part] += found.beside.to(hidden.dtype)
            sums += found.sums
        gradients.close()
        total = sums.new_zeros(())
        for value, coefficient in zip(sums, job.coefficients, strict=True):
            if coefficient != 0:  # a term that is only watched may be infinite
                total = total + coefficient * value
        ctx.save_for_backward(gradients.hidden, gradients.weight, gradients.bias)
        ctx.dtypes = (hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype)
        ctx.mark_non_differentiable(sums)
        return total, sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [
            None if gradient is None else _scaled(gradient, upstream, dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return *scaled, None


def _scaled(gradient: Tensor, upstream: Tensor, dtype: torch.dtype) -> Tensor:
    """The product, in place where the dtypes allow: a second copy of the head's gradient is gigabytes.

    So a graph is good for one backward; PyTorch refuses a second one, because a saved tensor has changed.
    """
    if gradient.dtype == dtype:
        # Times one is a pass over the head's gradient for nothing; only a CPU can tell without waiting.
        plain = upstream.device.type == "cpu" and float(upstream) == 1
        (gradient[:0] if plain else gradient).mul_(upstream)
        return gradient
    result = torch.empty_like(gradient, dtype=dtype)
    return torch.mul(gradient, upstream, out=result)
