"""How good a student in training is on text that nobody was trained on; each rank looks at its share of the rows."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from limbeck.objectives._buffers import parts, rows_at_once
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.training import links, parallel
from limbeck.training.checkpoint import CROSS_ENTROPY
from limbeck.training.links import Tied
from limbeck.training.step import Asked, Step
from limbeck.types import Batch, HeadLike, HeadMean, Signal, Source, Teacher, Wanted

Sums = dict[tuple[str, str], Tensor]
"""What was added up of some rows: {(measure, name): a scalar}"""
# Names of sums that are of no measure: each term's, by its place, and the weight of all tokens.
_TERMS, _OWN = "", "-"


@dataclass(frozen=True)
class Measure:
    """A measure of limbeck/evaluation with its options. needs_teacher: it has nothing to say of a student alone."""

    function: Callable[..., dict[str, Tensor]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called in a recipe and in the log."""
        return self.function.__name__

    @property
    def needs_teacher(self) -> bool:
        """Whether it compares with a teacher."""
        return bool(self._module.get("NEEDS_TEACHER", False))

    def finish(self, sums: dict[str, float]) -> dict[str, float]:
        """The figures that come of the sums of all rows."""
        found: dict[str, float] = self._module["finish"](sums)
        return found

    @property
    def _module(self) -> dict[str, Any]:
        return vars(sys.modules[self.function.__module__])


@dataclass(frozen=True)
class HeldOut:
    """Rows that nobody is trained on, who is asked about them, and what. micro_rows: rows of one forward."""

    source: Source
    rows: range
    measures: tuple[Measure, ...]
    teacher: Teacher | None
    world: parallel.World
    micro_rows: int = 1

    def wanted(self, terms: Sequence[Asked]) -> Wanted:
        """What the teacher is asked for."""
        compared = any(measure.needs_teacher for measure in self.measures)
        found = links.wanted([[_bare(term) for term in terms]])
        return replace(found, distribution=found.distribution or compared)

    @property
    def chunks(self) -> list[range]:
        """The rows of each forward, of all ranks together: the same for any number of ranks."""
        starts = range(self.rows.start, self.rows.stop, self.micro_rows)
        return [range(at, min(at + self.micro_rows, self.rows.stop)) for at in starts]


def _bare(term: Asked) -> Asked:
    """A term without the options that were filled in, by which cross-entropy is known."""
    return term.func if isinstance(term, partial) else term


def asks_teacher(term: Asked) -> bool:
    """Whether a term has nothing to say of a student alone."""
    return isinstance(term, Tied) or _bare(term) is not cross_entropy


@torch.no_grad()
def loss(step: Step, source: Source, rows: range, world: parallel.World) -> float:
    """Cross-entropy in nats per token over these rows of held-out text, the same on every rank."""
    step.eval()
    nats, weight = 0.0, 0.0
    for row in rows:
        batch = source.batch([row]).to(world.device)
        _, sums = step(batch, None, [cross_entropy], [1.0])
        nats += float(sums[0])
        weight += float(batch.weights.sum())
    step.train()
    parallel.give_back(step)
    return nats / max(weight, 1e-12)


@torch.no_grad()
def figures(
    step: Step, held: HeldOut, terms: Sequence[Asked], titles: Sequence[str]
) -> dict[str, Any]:
    """What a student says of held-out rows, the same on every rank and for any number of them.

    Returns cross_entropy, terms {title: mean over tokens} and measures {measure: {figure: value}}. terms: with their
    options; one that needs a teacher is left out where none can be asked. Dropout is off, and no random number drawn.
    """
    kept = [
        (title, term)
        for title, term in zip(titles, terms, strict=True)
        if held.teacher is not None or not asks_teacher(term)
    ]
    asked = [term for _, term in kept]
    step.eval()
    found = _added(held, [_looked(step, held, asked, part) for part in _share(held)])
    step.train()
    parallel.give_back(step)
    weight = max(found[_OWN, "weight"], 1e-12)
    measures: dict[str, dict[str, float]] = {}
    for measure in held.measures:
        sums = {name: value for (of, name), value in found.items() if of == measure.name}
        if sums:
            measures[measure.name] = measure.finish(sums)
    return {
        CROSS_ENTROPY: found[_OWN, CROSS_ENTROPY] / weight,
        "terms": {title: found[_TERMS, str(n)] / weight for n, (title, _) in enumerate(kept)},
        "measures": measures,
    }


def _share(held: HeldOut) -> list[tuple[int, range]]:
    """The forwards of this rank, each with its place among all; as many on every rank, since sharded parts are gathered.

    One at a place behind the last is made for the others' sake and counts nothing.
    """
    chunks, world = held.chunks, held.world
    rounds = -(-len(chunks) // world.size)
    places = [number * world.size + world.rank for number in range(rounds)]
    return [(place, chunks[min(place, len(chunks) - 1)]) for place in places]


def _looked(
    step: Step, held: HeldOut, terms: Sequence[Asked], part: tuple[int, range]
) -> tuple[int, Sums]:
    """The sums of one forward, and its place among all."""
    place, rows = part
    batch = held.source.batch(rows).to(held.world.device)
    wanted, teacher = held.wanted(terms), held.teacher
    signal = None if teacher is None else teacher.signal(batch, wanted)
    look = _Gathering(held.measures, batch, signal, step.chunk or rows_at_once(held.world.device))
    asked = [*terms, cross_entropy]
    if links.forced(
        terms
    ):  # blocks that are fed by the teacher say nothing of their own at the end
        _, found = step(batch, signal, terms, [0.0] * len(terms))
        _, alone = step(batch, None, [cross_entropy], [0.0], look=look)
        values = torch.cat([found, alone])
    else:
        _, values = step(batch, signal, asked, [0.0] * len(asked), look=look)
    sums = look.sums | {(_TERMS, str(number)): value for number, value in enumerate(values[:-1])}
    sums |= {(_OWN, CROSS_ENTROPY): values[-1], (_OWN, "weight"): batch.weights.double().sum()}
    return place, sums


@dataclass
class _Gathering:
    """What the measures find in one forward, some tokens at a time: logits (tokens, vocab) of all of them never exist."""

    measures: Sequence[Measure]
    batch: Batch
    signal: Signal | None
    chunk: int
    sums: Sums = field(default_factory=dict)

    def __call__(self, hidden: Tensor, head: HeadLike) -> None:
        """Adds all of it up. hidden: (counted, width)."""
        rows, label_bytes = self.batch.rows, self.batch.pick(self.batch.label_bytes.flatten())
        # Rows of which nothing counts are looked at, too: every rank must come to the same names.
        for part in parts(hidden.shape[0], self.chunk) or [slice(0, 0)]:
            logits = head(hidden[part])  # (chunk, vocab)
            teacher = None if self.signal is None else self.signal.distribution(part)
            for measure in self.measures:
                if measure.needs_teacher and (teacher is None or isinstance(teacher, HeadMean)):
                    continue
                told = (logits, teacher if measure.needs_teacher else None, rows[part])
                values = measure.function(*told, label_bytes[part], **measure.options)
                self._add(measure.name, values)

    def _add(self, measure: str, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            key = measure, name
            self.sums[key] = self.sums[key] + value if key in self.sums else value


def _added(held: HeldOut, mine: Sequence[tuple[int, Sums]]) -> dict[tuple[str, str], float]:
    """The sums over all forwards of all ranks, each forward's once and in one order, so that ranks change no bit."""
    names = list(mine[0][1])
    device = held.world.device
    table = torch.zeros(len(held.chunks), len(names), dtype=torch.float64, device=device)
    for place, sums in mine:
        if place < len(held.chunks):
            table[place] = torch.stack([sums[name].double().to(device) for name in names])
    whole = parallel.total(table).T.tolist()  # (names, forwards)
    return {name: _sum(values) for name, values in zip(names, whole, strict=True)}


def _sum(values: Sequence[float]) -> float:
    """The sum, exactly rounded; of what is not finite as it is."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)
