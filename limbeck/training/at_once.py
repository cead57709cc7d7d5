"""A sum over tokens of what two taps show, whose slopes are made in the forward pass and kept in the taps' own dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.objectives._compiled import able, apart, or_plain
from limbeck.types import Objective, Rows

Sloped = Callable[[Tensor, Tensor, Rows, Tensor], tuple[Any, Tensor]]
"""Of both sides, the rows and their weights: the slopes of those sides that were asked for, and the sum."""

# So many numbers of one side for compiling (seconds, once a process and objective) to be worth it.
WIDE = 1 << 17


def summed(
    function: Objective, mine: Tensor, theirs: Tensor, rows: Rows, weights: Tensor
) -> Tensor:
    """The weighted sum of an objective over tokens: a scalar with a graph to those sides that have one.

    mine, theirs: (tokens, width). weights: (tokens,). With a term at every matrix of every block what lies between
    the sides and the sum, in float32 and several times as large, would fill the memory until the backward pass; it is
    freed at once. Limbeck's own objectives are compiled where they are wide, together with their slopes: eagerly each
    operation writes both sides anew. LIMBECK_EAGER=1 has all of it eagerly.
    """
    if not torch.is_grad_enabled():
        return weighed(function(mine, theirs, rows), weights)
    return cast(Tensor, cast(Any, _AtOnce.apply)(mine, theirs, function, (rows, weights)))


def weighed(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum, in which a value that does not count cannot become NaN."""
    return (torch.where(weights != 0, values, 0.0) * weights).sum()


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mine: Tensor, theirs: Tensor, function: Objective, told: tuple[Rows, Tensor]
    ) -> Tensor:
        sides = mine.detach(), theirs.detach()
        asked = tuple(number for number in (0, 1) if ctx.needs_input_grad[number])
        if not asked:
            return weighed(function(*sides, told[0]), told[1])
        slopes, found = _sloped(function, asked, sides)(*sides, *told)
        given = dict(zip(asked, slopes, strict=True))
        ctx.save_for_backward(given.get(0), given.get(1))
        return found.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        # A scalar in float32 multiplies in float32 and leaves the dtype: rounded first, it would change the term's weight.
        scaled = [None if one is None else one * upstream for one in ctx.saved_tensors]
        return *scaled, None, None


def _sloped(function: Objective, asked: tuple[int, ...], sides: tuple[Tensor, Tensor]) -> Sloped:
    """How the slopes of these sides are made."""
    own, options = function, {}
    if isinstance(function, partial) and not function.args:
        own, options = function.func, function.keywords
    wide = sides[0].shape == sides[1].shape and sides[0].numel() >= WIDE
    exact = torch.float64 in (sides[0].dtype, sides[1].dtype)
    # What others wrote may do what the compiler cannot follow.
    ours = getattr(own, "__module__", "").startswith("limbeck.")
    if wide and ours and not exact and able(sides[0].device.type):
        return _compiled(own, tuple(sorted(options.items())), asked)
    return partial(_eagerly, function, asked)


def _eagerly(
    function: Objective, asked: tuple[int, ...], *told: Any
) -> tuple[tuple[Tensor | None, ...], Tensor]:
    mine, theirs, rows, weights = told
    with torch.enable_grad():
        sides = [one.detach() for one in (mine, theirs)]
        leaves = [sides[number].requires_grad_() for number in asked]
        found = weighed(function(*sides, rows), weights)
    if not found.requires_grad:
        return (None,) * len(asked), found
    return torch.autograd.grad(found, leaves, allow_unused=True), found


@functools.cache
def _compiled(
    own: Objective, options: tuple[tuple[str, Any], ...], asked: tuple[int, ...]
) -> Sloped:
    """One function of sum and slopes, for any number of tokens and any width."""
    function = partial(own, **dict(options))

    def value(mine: Tensor, theirs: Tensor, rows: Rows, weights: Tensor) -> Tensor:
        return weighed(function(mine, theirs, rows), weights)

    sloped = torch.func.grad_and_value(value, argnums=asked)
    compiled: Sloped = torch.compile(apart(sloped), dynamic=True)
    return or_plain(compiled, partial(_eagerly, function, asked), own.__name__)
