"""Output head and objectives over chunks of tokens: (tokens, vocab) never exists, on neither side.

The gradient of a chunk's logits is used as soon as it is made, in the forward pass, so nothing is computed twice and
what is kept for the backward pass is one gradient of the hidden states and one of the head.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.types import HeadLike, Rows, Signal, TopK

Term = Callable[[Tensor, Tensor | TopK | None, Rows], Tensor]
"""An objective with its options filled in."""


def chunked(
    hidden: Tensor,
    head: HeadLike,
    teacher: Signal | None,
    rows: Rows,
    terms: Sequence[Term],
    coefficients: Sequence[float],
    *,
    chunk: int = 256,
) -> tuple[Tensor, Tensor]:
    """The weighted sum of every term over all tokens, and their total with its gradient.

    hidden: the student's (tokens, width). teacher: a Signal of the same tokens, or None if no term asks for one.
    Returns (total, sums). sums: (terms,), each the sum over tokens of rows.weights times the term, detached.
    total: scalar, the sum of coefficients times sums; its gradient reaches hidden, head.weight and head.bias.
    """
    learning = torch.is_grad_enabled()
    parts = (hidden, head.weight, head.bias)
    wanted = tuple(learning and part is not None and part.requires_grad for part in parts)
    job = _Job(head, teacher, rows, tuple(terms), tuple(coefficients), chunk, wanted)
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
    chunk: int = 0,  # noqa: ARG001
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


def measured(
    hidden: Tensor, head: HeadLike, teacher: Signal | None, rows: Rows, *, chunk: int = 256
) -> Iterator[tuple[Tensor, Tensor | TopK | None, Rows, slice]]:
    """Student logits, teacher distribution, rows and place of each chunk of tokens, without gradients.

    hidden: (tokens, width). Yields logits (chunk, vocab), then logits (chunk, vocab) or TopK or None.
    """
    for part in _parts(hidden.shape[0], chunk):
        with torch.no_grad():
            student = head(hidden[part])
            distribution = None if teacher is None else teacher.distribution(part)
        yield student, distribution, rows[part], part


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


def _parts(tokens: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk)]


def _sums(
    student: Tensor,
    distribution: Tensor | TopK | None,
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


class _Gradients:
    """Gradients of hidden states, head weight and bias, each in a buffer made once, or None if not wanted."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        precise = torch.float64 if weight.dtype == torch.float64 else torch.float32
        self.hidden = torch.zeros_like(hidden) if wanted[0] else None
        self.weight = torch.zeros_like(weight, dtype=precise) if wanted[1] else None
        self.bias = (
            torch.zeros_like(bias, dtype=precise) if bias is not None and wanted[2] else None
        )

    def add(self, part: slice, slope: Tensor, hidden: Tensor, weight: Tensor) -> None:
        """Adds what a chunk gives. slope: gradient of its raw logits (chunk, vocab), hidden: (chunk, width)."""
        if self.bias is not None:
            self.bias += slope.sum(0)
        slope = slope.to(weight.dtype)
        if self.hidden is not None:
            self.hidden[part] = slope @ weight
        if self.weight is not None and self.weight.dtype == weight.dtype:
            self.weight.addmm_(slope.T, hidden)
        elif self.weight is not None:
            # bf16 products, added up in float32: chunks must not drown one another.
            self.weight += slope.T @ hidden


class _Chunked(torch.autograd.Function):
    """The gradient is made in forward; backward only multiplies it by the gradient of the scalar total."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job
    ) -> tuple[Tensor, Tensor]:
        gradients = _Gradients(hidden, weight, bias, job.wanted)
        precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        total = hidden.new_zeros((), dtype=precise)
        sums = hidden.new_zeros(len(job.terms), dtype=precise)
        for part in _parts(hidden.shape[0], job.chunk):
            product = hidden[part] @ weight.T  # (chunk, vocab)
            raw = at_least_float32(product if bias is None else product + bias)
            distribution = None if job.teacher is None else job.teacher.distribution(part)
            with torch.set_grad_enabled(any(job.wanted)):
                raw.requires_grad_(any(job.wanted))
                student = job.head.finish(raw)
                some, each = _sums(
                    student, distribution, job.rows[part], job.terms, job.coefficients
                )
            if some.requires_grad:
                (slope,) = torch.autograd.grad(some, raw)
                # Outside of the block above: recorded, these products would keep each chunk's slope.
                gradients.add(part, slope, hidden[part], weight)
            total += some.detach()
            sums += each
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
        return gradient.mul_(upstream)
    result = torch.empty_like(gradient, dtype=dtype)
    return torch.mul(gradient, upstream, out=result)
