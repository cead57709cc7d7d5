"""What a measure's figures are worth: intervals of each model, of differences on the same rows, and of the gap recovered."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from limbeck.intervals import LEAST, Figure, Floats, Resampled, figures

ROLES = ("student", "control", "teacher")
"""Of these each is compared with those behind it."""


def told(
    rows: dict[str, dict[str, list[float]]], finish: Figure, gaps: Sequence[str]
) -> dict[str, Any]:
    """Plain data for a measure's file; {} where there are too few rows to tell.

    rows: {model: {name: the sum of each row}}, the same rows for all. gaps: figures of which the gap recovered is told.
    `intervals` is {model: {figure: [value, low, high]}}, `differences` {'student - control': the same}, 95 % by BCa.
    """
    count = max((len(v) for sums in rows.values() for v in sums.values()), default=0)
    if count < LEAST:
        return {}
    draws = Resampled(count)
    found = {model: figures(draws, sums, finish) for model, sums in rows.items()}
    roles = [role for role in ROLES if role in found]
    pairs = {
        f"{one} - {other}": {key: found[one][key] - found[other][key] for key in found[one]}
        for one, other in combinations(roles, 2)
    }
    gap = {key: _gap(found, key) for key in gaps} if len(roles) == len(ROLES) else {}
    return {
        "confidence": "95 %, bootstrap over rows (BCa), differences on the same rows",
        "intervals": {model: _plain(draws, each) for model, each in found.items()},
        "differences": {pair: _plain(draws, each) for pair, each in pairs.items()},
        "gap_intervals": _plain(draws, gap),
    }


def _gap(found: dict[str, dict[str, Floats]], key: str) -> Floats:
    """(control - student) / (control - teacher) of each draw."""
    student, control, teacher = (found[role][key] for role in ROLES)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap: Floats = (control - student) / (control - teacher)
    return gap


def _plain(draws: Resampled, found: dict[str, Floats]) -> dict[str, list[float]]:
    intervals = {key: draws.interval(values) for key, values in found.items()}
    return {key: one.plain() for key, one in intervals.items() if one is not None}
