"""The Step: one module whose forward is the whole step, so that sharding wraps exactly one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from limbeck.models import forcing, layout, taps
from limbeck.objectives._buffers import Room
from limbeck.objectives._chunks import chunked
from limbeck.recipe import Term, value_at
from limbeck.training import links, parallel
from limbeck.training.links import Inside, Tied
from limbeck.types import Batch, HeadLike, Objective, Signal

Asked = Objective | Tied
"""What a Step is asked for: an objective over what models say of tokens, or one between taps."""
Look = Callable[[Tensor, HeadLike], None]
"""Takes the student's last hidden states (counted, width) and its head, while both are whole on this rank."""


class Step(nn.Module):
    """The student's pass over a batch, the head and every objective: a sum per term, never a mean.

    projectors: of terms between taps, by name; they are trained with the student and stay here when it leaves.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        vocab: int,
        chunk: int | None = None,
        projectors: nn.ModuleDict | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.projectors = nn.ModuleDict() if projectors is None else projectors
        self.vocab = vocab
        self.chunk = chunk
        self._room = Room()
        self._forcing: forcing.Forcing | None = None

    def forward(
        self,
        batch: Batch,
        teacher: Signal | None,
        terms: Sequence[Asked],
        coefficients: Sequence[float],
        *,
        look: Look | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(total, sums): sums (terms,) over the batch's weighted tokens, total their weighted sum.

        The caller divides, once, by the weight of the whole step over all micro-batches and ranks. look: sees what the
        student says, too.
        """
        said = {n: term for n, term in enumerate(terms) if not isinstance(term, Tied)}
        parallel.keep_gathered(self, not said)
        hidden, inside = self._inside(batch, terms, teacher)
        if look is not None:
            look(hidden, layout.head(self.student, vocab=self.vocab))
        sums = hidden.new_zeros(len(terms), dtype=_precise(hidden))
        total = sums.new_zeros(())
        if said:
            total, found = chunked(
                hidden,
                layout.head(self.student, vocab=self.vocab),
                teacher,
                batch.rows,
                list(said.values()),
                [coefficients[number] for number in said],
                chunk=self.chunk,
                room=self._room,
            )
            for number, value in zip(
                said, found, strict=True
            ):  # a list as index waits for a device
                sums[number] = value
        for number, (term, coefficient) in enumerate(zip(terms, coefficients, strict=True)):
            if isinstance(term, Tied):
                assert teacher is not None  # a recipe without one has no such term
                with torch.set_grad_enabled(torch.is_grad_enabled() and coefficient != 0):
                    value = links.total(term, batch, inside, teacher)
                sums[number] = value.detach()
                total = total + coefficient * value if coefficient != 0 else total
        if torch.is_grad_enabled() and not total.requires_grad:
            # No term learns yet, or reaches what is trained: backward still finds its way, and changes nothing.
            begin = hidden.sum() if hidden.requires_grad else sums.new_zeros((), requires_grad=True)
            total = total + begin * 0.0
        return total, sums

    def _inside(
        self, batch: Batch, terms: Sequence[Asked], teacher: Signal | None
    ) -> tuple[Tensor, Inside]:
        """Last hidden states (counted, width), and what the terms want to see before them."""
        self._feed(batch, terms, teacher)
        wanted, given = links.taps(terms, "student"), links.handed(terms, teacher)
        hidden, features, heads = taps.signal(self.student, batch, wanted, given)
        beside = {tap: features.pop(f"{tap}.{taps.BESIDE}") for tap in given}
        picked = {tap: batch.pick(vectors) for tap, vectors in features.items()}
        return batch.pick(hidden), Inside(picked, heads, self.projectors, beside)

    def _feed(self, batch: Batch, terms: Sequence[Asked], teacher: Signal | None) -> None:
        """Has blocks begin from what the teacher's begin from, where terms ask for it."""
        blocks = links.forced(terms)
        if blocks and self._forcing is None:
            alone = links.mixers_alone(terms)
            self._forcing = forcing.Forcing(self.student, mixers_alone=alone)
        if self._forcing is None:
            return
        if not blocks or teacher is None:
            self._forcing.give(None)
            return
        found = {number: teacher.features[forcing.entering(number)] for number in blocks}
        shape = (*batch.input_ids.shape, -1)
        self._forcing.give({number: one.view(shape) for number, one in found.items()})


def _precise(hidden: Tensor) -> torch.dtype:
    return torch.float64 if hidden.dtype == torch.float64 else torch.float32


def terms_at(
    functions: Sequence[Asked], terms: Sequence[Term], share: float, step: int = 0
) -> tuple[list[Asked], list[float]]:
    """The objectives with their options, and their weights, at this share and step of the stage."""
    bound: list[Asked] = []
    for function, term in zip(functions, terms, strict=True):
        options = {key: value_at(value, share) for key, value in term.options.items()}
        if isinstance(function, Tied):
            bound.append(function.bound(options, step))
        else:
            bound.append(partial(function, **options))
    return bound, [float(value_at(term.weight, share)) for term in terms]
