"""The Step: one module whose forward is the whole step, so that sharding wraps exactly one thing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from limbeck.models import layout
from limbeck.objectives._buffers import Room
from limbeck.objectives._chunks import chunked
from limbeck.recipe import Term, value_at
from limbeck.types import Batch, Objective, Signal


class Step(nn.Module):
    """The student's pass over a batch, the head and every objective: a sum per term, never a mean."""

    def __init__(self, student: nn.Module, *, vocab: int, chunk: int | None = None) -> None:
        super().__init__()
        self.student = student
        self.vocab = vocab
        self.chunk = chunk
        self._room = Room()

    def forward(
        self,
        batch: Batch,
        teacher: Signal | None,
        terms: Sequence[Objective],
        coefficients: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        """(total, sums): sums (terms,) over the batch's weighted tokens, total their weighted sum.

        The caller divides, once, by the weight of the whole step over all micro-batches and ranks.
        """
        hidden = batch.pick(layout.hidden(self.student, batch))  # (counted, width)
        head = layout.head(self.student, vocab=self.vocab)
        return chunked(
            hidden,
            head,
            teacher,
            batch.rows,
            terms,
            coefficients,
            chunk=self.chunk,
            room=self._room,
        )


def terms_at(
    functions: Sequence[Objective], terms: Sequence[Term], share: float
) -> tuple[list[Objective], list[float]]:
    """The objectives with their options, and their weights, at this share of the stage."""
    bound: list[Objective] = [
        partial(function, **{key: value_at(value, share) for key, value in term.options.items()})
        for function, term in zip(functions, terms, strict=True)
    ]
    return bound, [float(value_at(term.weight, share)) for term in terms]
