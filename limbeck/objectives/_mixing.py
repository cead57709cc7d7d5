"""Matrices over the tokens of a document: a mixer's and an attention's, some heads at a time, and how far they are apart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.errors import ModelError
from limbeck.objectives._kept import at_least_float32
from limbeck.types import Heads, Mixing

# Entries of (heads, time, time) of one part on one side: 4 million are 16 MB in float32.
_ENTRIES = 1 << 22


def squares(student: Mixing, teacher: Heads) -> Tensor:
    """The sum over seen tokens of (M - A)^2 for each query and head: (tokens, heads).

    Some heads of a document at a time, computed again in the backward pass: no matrix of all heads is ever there.
    """
    heads = student.log_decay.shape[1]
    if heads != teacher.queries.shape[1]:
        raise ModelError(
            f"mixing_matrix: the student's mixer has {heads} heads, the teacher's attention "
            f"{teacher.queries.shape[1]}; wanted as many."
        )
    found: Tensor = cast(Any, _Squares.apply)(
        teacher, student.edges, student.write, student.read, student.log_decay, student.skip, student.scale
    )  # fmt: skip
    return found


class _Squares(torch.autograd.Function):
    """`squares` whose results and gradients have their memory before a matrix is made.

    What is small and stays must not lie behind what is large and goes: the heap would keep all of it, a gigabyte for 32
    heads of 2,048 tokens.
    """

    @staticmethod
    def forward(ctx: Any, teacher: Heads, edges: Tensor, *factors: Tensor | None) -> Tensor:
        write, _, log_decay = factors[:3]
        assert write is not None
        assert log_decay is not None
        ctx.teacher, ctx.edges = teacher, edges
        ctx.save_for_backward(*factors)
        found = torch.empty(log_decay.shape, dtype=precise_of(write), device=write.device)
        for place, heads in _parts(edges, log_decay.shape[1]):
            mine = _mixing(factors, edges).between(place.start, place.stop)
            theirs = teacher.between(place.start, place.stop)
            found[place, heads] = _apart(mine, theirs, heads.start, heads.stop).T
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        factors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        slopes = [
            torch.zeros_like(one) if asks else None
            for one, asks in zip(factors, wanted, strict=True)
        ]
        for place, heads in _parts(ctx.edges, upstream.shape[1]):
            leaves = [None if one is None else one.detach() for one in factors]
            mine = _mixing(leaves, ctx.edges).between(place.start, place.stop)
            theirs = ctx.teacher.between(place.start, place.stop)
            sides = [mine.write, mine.read, mine.log_decay, mine.skip, mine.scale]
            given = [
                one for one, asks in zip(sides, wanted, strict=True) if one is not None and asks
            ]
            with torch.enable_grad():
                for one in given:
                    one.requires_grad_()
                gap = _apart(mine, theirs, heads.start, heads.stop)
            made = iter(torch.autograd.grad(gap, given, upstream[place, heads].T))
            for number, slope in enumerate(slopes):
                if slope is not None:
                    part = slope if number == _SKIP else slope[place]
                    part += next(made)
        return None, None, *slopes


_SKIP = 3
"""The factor that belongs to no token."""


def _mixing(factors: Sequence[Tensor | None], edges: Tensor) -> Mixing:
    write, read, log_decay, skip, scale = factors
    assert write is not None
    assert read is not None
    assert log_decay is not None
    assert skip is not None
    return Mixing(write, read, log_decay, scale, skip, edges)


def _parts(edges: Tensor, heads: int) -> Iterator[tuple[slice, slice]]:
    """Tokens of a document, and some of the heads, whose matrices are small enough."""
    for begin, end in itertools.pairwise(edges.tolist()):
        size = max(1, _ENTRIES // (end - begin) ** 2)
        for first in range(0, heads, size):
            yield slice(begin, end), slice(first, min(first + size, heads))


def _apart(student: Mixing, teacher: Heads, first: int, last: int) -> Tensor:
    """Sums of squares of a document, of heads from `first` to before `last`: (heads, tokens)."""
    with torch.no_grad():
        wanted = attention(teacher, first, last)
    return (of_document(student, first, last) - wanted).square().sum(-1)


def attention(heads: Heads, first: int, last: int) -> Tensor:
    """What attention of one document looks at, of some heads: (heads, time, time), each row adding up to 1."""
    queries, keys = (at_least_float32(side) for side in (heads.queries, heads.keys))
    shared = queries.shape[1] // keys.shape[1]
    served = torch.arange(first, last, device=queries.device) // shared
    products = queries[:, first:last].transpose(0, 1) @ keys[:, served].permute(1, 2, 0)
    time = queries.shape[0]
    unseen = ~torch.ones(time, time, dtype=torch.bool, device=queries.device).tril()
    return (products * heads.scale).masked_fill(unseen, -torch.inf).softmax(-1)


def of_document(mixing: Mixing, first: int, last: int) -> Tensor:
    """What a mixer applies to the values of one document, of some heads: (heads, time, time), 0 above the diagonal."""
    shared = mixing.log_decay.shape[1] // mixing.write.shape[1]
    served = torch.arange(first, last, device=mixing.write.device) // shared
    some = slice(first, last)
    found = matrix(
        mixing.write[None, :, served],
        mixing.read[None, :, served],
        mixing.log_decay[None, :, some],
        scale=None if mixing.scale is None else mixing.scale[None, :, some],
        skip=mixing.skip[some],
    )
    return found[0]


def matrix(
    write: Tensor,
    read: Tensor,
    log_decay: Tensor,
    *,
    begins: Tensor | None = None,
    scale: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:
    """The matrix that takes values to outputs: (batch, heads, time, time), a row for each output, 0 above the diagonal.

    write, read, log_decay, begins: as in models/scan.py. scale: (batch, time, heads), by which each value enters, or None.
    skip: (heads,), added to the diagonal, or None. float32, or float64 where `write` is.
    It takes time^2 numbers a head, and training about four times that: for short rows, a layer at a time.
    """
    groups, precise = write.shape[2], precise_of(write)
    log_a = grouped(log_decay.to(precise), groups).permute(0, 2, 3, 1)
    b, c = (side.to(precise).transpose(1, 2) for side in (write, read))
    decay = decays(log_a, seen(log_a, begins))
    matrix = ((c @ b.mT).unsqueeze(2) * decay).flatten(1, 2)
    if scale is not None:
        matrix = matrix * scale.to(precise).transpose(1, 2).unsqueeze(2)
    if skip is not None:
        matrix.diagonal(dim1=-2, dim2=-1).add_(skip.to(precise).unsqueeze(-1))
    return matrix


def precise_of(inputs: Tensor) -> torch.dtype:
    """The numbers that states and decays are computed in: float32, or float64 where that came in."""
    return torch.float64 if inputs.dtype == torch.float64 else torch.float32


def grouped(inputs: Tensor, groups: int, at: int = 2) -> Tensor:
    """(batch, time, heads, ...) as (batch, time, groups, shared, ...); the heads may stand elsewhere."""
    before, heads, behind = inputs.shape[:at], inputs.shape[at], inputs.shape[at + 1 :]
    assert heads % groups == 0, f"{groups} groups do not divide {heads} heads."
    return inputs.reshape(*before, groups, heads // groups, *behind)


def seen(log_a: Tensor, begins: Tensor | None) -> Tensor:
    """Whether token t (row) sees token s (column): bool (time, time), or (batch, 1, 1, time, time) with documents."""
    time = log_a.shape[-1]
    causal = torch.ones(time, time, dtype=torch.bool, device=log_a.device).tril()
    if begins is None:
        return causal
    documents = begins.long().cumsum(1)
    same = documents.unsqueeze(2) == documents.unsqueeze(1)  # (batch, time, time)
    return (same & causal)[:, None, None]


# e^-60 of a number is lost beside any other; e^-87 is float32's least normal number, e^-708 float64's.
_FADED = {torch.float32: -60.0, torch.float64: -600.0}


def decays(log_a: Tensor, seen: Tensor) -> Tensor:
    """The product of a over s+1 ... t where t sees s, else 0: (batch, groups, shared, time, time).

    log_a: (batch, groups, shared, time). seen: bool, broadcastable to the result.
    Each sum is taken of its own terms. The difference of two running sums would be cheaper, and wrong: one decay of -1e4
    costs every later difference three digits, and -inf makes it NaN.
    """
    time = log_a.shape[-1]
    after = torch.ones(time, time, dtype=torch.bool, device=log_a.device).tril(-1)
    sums = torch.where(after, log_a.unsqueeze(-1), 0.0).cumsum(-2)  # row t, column s
    return faded(sums.masked_fill(~seen, -torch.inf))


def faded(logs: Tensor) -> Tensor:
    """Exp of logs of decays, and 0 where hardly anything is left: products with it would have no place among normal numbers,
    and a CPU takes many times as long for those.
    """
    least = _FADED[logs.dtype]
    return logs.masked_fill(logs < least, -torch.inf).exp()
