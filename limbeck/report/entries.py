"""What stands in a comparison of runs: an entry for each kind of run, whatever its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from limbeck.intervals import Interval
from limbeck.report.collect import Facts


@dataclass(frozen=True)
class Judged:
    """One model of one run. rows: {measure: {name: sums of each row}}; of: which rows those are."""

    facts: Facts
    model: str
    seed: int
    rows: dict[str, dict[str, list[float]]]
    of: dict[str, list[str]]


@dataclass
class Entry:
    """A row of the comparison: the runs that differ in their seed alone. intervals and against: by figure."""

    title: str
    runs: list[Judged]
    intervals: dict[str, Interval] = field(default_factory=dict)
    against: dict[str, Interval] = field(default_factory=dict)
    paired: bool = True

    @property
    def first(self) -> Judged:
        """Of whom sizes are told; those of the others are equal."""
        return self.runs[0]

    def value(self, measure: str, key: str) -> float | None:
        """The mean of a figure over seeds."""
        found = self.each(measure, key)
        return statistics.mean(found) if found else None

    def each(self, measure: str, key: str) -> list[float]:
        """A figure of every seed that has it."""
        tables = [one.facts.figures.get(measure, {}).get(one.model, {}) for one in self.runs]
        return [float(table[key]) for table in tables if key in table]

    @property
    def trained(self) -> float | None:
        """Tokens that it was trained on; a teacher was not trained here."""
        arm = next((one for one in self.first.facts.curves if one.title == self.first.model), None)
        return float(arm.lines[-1]["tokens_in_all"]) if arm else None


def unbeaten(points: Sequence[tuple[float, float]]) -> list[int]:
    """Of points whose both coordinates are better when lower: the places of those that none other is as good as in both and better in one."""
    return [
        at
        for at, (x, y) in enumerate(points)
        if not any((u, v) != (x, y) and u <= x and v <= y for u, v in points)
    ]
