"""How sure a figure is: intervals by the bootstrap over held-out rows, the same draws for every model, so that differences are paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES, CONFIDENCE = 2000, 0.95
LEAST = 8
"""Fewer rows tell nothing of how much rows differ."""
_MOST = 500
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A figure and the interval that holds the true one in 95 of 100 such samples of rows."""

    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether it lies on one side of 0 altogether."""
        return self.low > 0 or self.high < 0

    def plain(self) -> list[float]:
        """As a file holds it: [value, low, high]."""
        return [self.value, self.low, self.high]


class Resampled:
    """Draws of rows with putting back, made once. Sums of rows go in, intervals of whatever is made of them come out.

    rows: how many there are; more than 500 are put together as they follow each other, as blocks of rows.
    Bias-corrected and accelerated (BCa): Efron, Better bootstrap confidence intervals, 1987.
    """

    def __init__(self, rows: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        if rows < LEAST:
            raise ValueError(f"{rows} rows; wanted at least {LEAST}.")
        self.rows, self.blocks = rows, min(rows, _MOST)
        drawn = np.random.default_rng(seed).integers(self.blocks, size=(resamples, self.blocks))
        counts = np.zeros((resamples, self.blocks))
        np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
        whole, without = np.ones((1, self.blocks)), 1.0 - np.eye(self.blocks)
        self._weights = np.concatenate([whole, without, counts])

    def sums(self, values: Any) -> Floats:
        """Values of rows (rows,) -> their sums: of all, without each block, in each draw."""
        given = np.asarray(values, dtype=np.float64)
        edges = np.linspace(0, self.rows, self.blocks + 1).astype(int)[:-1]
        found: Floats = self._weights @ np.add.reduceat(given, edges)
        return found

    def interval(self, found: Floats, confidence: float = CONFIDENCE) -> Interval | None:
        """The interval of a figure that was made of `sums`, draw by draw; None where a draw has no figure."""
        value, without, drawn = found[0], found[1 : self.blocks + 1], found[self.blocks + 1 :]
        if not np.isfinite(found).all():
            return None
        if np.ptp(drawn) <= 1e-12 * max(1.0, abs(float(value))):
            return Interval(float(value), float(value), float(value))
        below = (np.count_nonzero(drawn < value) + np.count_nonzero(drawn <= value)) / 2
        bias = _NORMAL.inv_cdf(float(np.clip(below / len(drawn), 1e-6, 1 - 1e-6)))
        apart = without.mean() - without
        spread = float((apart**2).sum() ** 1.5)
        speed = float((apart**3).sum()) / (6 * spread) if spread else 0.0
        ends = []
        for share in ((1 - confidence) / 2, (1 + confidence) / 2):
            moved = bias + _NORMAL.inv_cdf(share)
            ends.append(_NORMAL.cdf(bias + moved / (1 - speed * moved)))
        low, high = np.quantile(drawn, ends)
        return Interval(float(value), float(low), float(high))


Figure = Callable[[dict[str, float]], dict[str, float]]
"""From sums over rows to figures by name, as a measure's `finish`."""


def figures(draws: Resampled, rows: dict[str, Any], finish: Figure) -> dict[str, Floats]:
    """Each figure of a model in all and in every draw. rows: {name: value of each row}, whose sums `finish` takes."""
    sums = {name: draws.sums(values) for name, values in rows.items()}
    names, columns = list(sums), np.stack(list(sums.values()), axis=1)
    made = [finish(dict(zip(names, line, strict=True))) for line in columns.tolist()]
    return {key: np.array([one[key] for one in made]) for key in made[0]}
