"""What models answered in benchmarks, as a table for people: one line a figure. Reads files only, needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.report import shapes, tables

_MODELS = ("teacher", "before", "student", "control", "model")


def read(place: Path) -> list[dict[str, Any]]:
    """What is kept of each task, averages of groups last."""
    found = [tables.table(path, shapes.Benchmark) for path in tables.paths(place)]
    return sorted((kept for kept in found if kept is not None), key=lambda kept: "of" in kept)


def table(kept: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each figure of each task: as lm-eval writes them, with its standard errors."""
    models = [name for name in _MODELS if any(name in each["models"] for each in kept)]
    compared = any(each["student_against_control"] for each in kept)
    recovered = any(each["gap_recovered"] for each in kept)
    rows = []
    for each in kept:
        figures = dict.fromkeys(
            figure for told in each["models"].values() for figure in told if _is_one(figure)
        )
        for figure in figures:
            row = [_title(each), _named(each, figure), f"{each['questions']:,}"]
            row += [_cell(each["models"].get(name, {}), figure) for name in models]
            if compared:
                row.append(_difference(each["student_against_control"].get(figure)))
            if recovered:
                gap = each["gap_recovered"].get(figure)
                row.append("–" if gap is None else f"{gap:.1%}")
            rows.append(row)
    headings = ["benchmark", "figure", "questions", *models]
    headings += ["student − control"] * compared + ["gap recovered"] * recovered
    return headings, rows


def _is_one(figure: str) -> bool:
    return not figure.endswith("_stderr")


def _title(kept: dict[str, Any]) -> str:
    shots = kept["few_shot"]
    return f"{kept['measure']}, {shots}-shot" if shots else str(kept["measure"])


def _named(kept: dict[str, Any], figure: str) -> str:
    lower = kept["higher_is_better"].get(figure.partition(".")[0]) is False
    return f"{figure} ↓" if lower else figure


def _cell(told: dict[str, float], figure: str) -> str:
    if figure not in told:
        return "–"
    error = told.get(f"{figure}_stderr")
    return f"{told[figure]:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _difference(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    error = found["stderr"]
    return f"{found['difference']:+.4f}" + ("" if error is None else f" ± {error:.4f}")
