"""Which terms of a stage the head operator knows, and how it sees them."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from limbeck.objectives._kept import Tail, check_heat, check_tail
from limbeck.objectives._rows import Pair
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl


@dataclass(frozen=True)
class Fused:
    """A term that the operator knows: a divergence between two sides, or cross-entropy, where `between` is None."""

    between: Callable[..., Tensor] | None
    options: tuple[tuple[str, Any], ...]
    temperature: float
    tail: Tail
    scale: float
    is_forward_kl: bool


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
        # Made once for all chunks, and sent: a tensor that is made on a device waits for it.
        factors = [
            coefficient * term.scale / term.temperature
            for term, coefficient in zip(terms, self.coefficients, strict=True)
            if term.between is not None
        ]
        inverse = [1 / temperature for temperature in self.temperatures]
        told = torch.tensor([*factors, self.label_factor, *inverse], dtype=self.precise)
        # (divergences + 1 + temperatures,)
        self.constants = told.to(like.device, non_blocking=True)
        self.inverse = self.constants[-len(inverse) :]

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
    def pairs(self) -> tuple[Pair, ...]:
        """The divergences, as the row function sees them."""
        each = zip(self.terms, self.coefficients, strict=True)
        return tuple(
            Pair(term.between, term.options, self.group(term), term.is_forward_kl, coefficient != 0)
            for term, coefficient in each
            if term.between is not None
        )

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
    check_heat(temperature)
    check_tail(tail)
    scale = temperature**2 if options.pop("scale_t2") else 1.0
    mine = tuple(sorted(options.items()))
    return Fused(between, mine, temperature, tail, scale, function is forward_kl)
