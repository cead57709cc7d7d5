"""What models have in benchmarks, as files: one for each task, written again after each model, so that a kill loses one task.

Two models that were asked the same questions are compared pair by pair, which tells much smaller differences from chance
than their two errors do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from limbeck import checked, files
from limbeck.evaluation import _code
from limbeck.evaluation._harness import Outcome
from limbeck.evaluation._tasks import GROUPS
from limbeck.recipe import Benchmarks

Kept = dict[str, Any]


class _Asked(TypedDict):
    """What a file has of each model that was asked."""

    questions: checked.Whole
    higher_is_better: dict[str, bool]
    prints: dict[str, str]
    models: dict[str, dict[str, checked.Number]]
    items: dict[str, dict[str, dict[str, list[Any]]]]


Gap = Callable[[float, float, float, bool], float | None]
"""(teacher, student, control, whether higher is better) -> share of the way from control to teacher."""


def path_of(place: Path, title: str, asked: Benchmarks) -> Path:
    """Where a task's answers are kept: another number of questions or examples is another file."""
    shots = f".{asked.few_shot}-shot" if asked.few_shot is not None else ""
    limit = f".limit-{asked.limit}" if asked.limit is not None else ""
    code = title in _code.TASKS and asked.samples is not None
    samples = f".{asked.samples}-samples" if code else ""
    return place / f"{title}{shots}{limit}{samples}.json"


def read(path: Path, settings: dict[str, Any]) -> Kept:
    """What is kept of a task, or nothing where it was asked under other settings."""
    found = files.read_json(path) if path.is_file() else {}
    if not isinstance(found, dict) or found.get("settings") != settings:
        return {}
    return dict(checked.value(found, _Asked, str(path), "Remove the file, and ask again."))


def has(kept: Kept, title: str, mark: str) -> bool:
    """Whether a model's answers are there, and that very model's."""
    return bool(kept.get("prints", {}).get(title) == mark)


def added(kept: Kept, about: dict[str, Any], title: str, mark: str, outcome: Outcome) -> Kept:
    """The same with one more model's answers. about: measure, command and settings."""
    whole = kept | about
    whole |= {
        "questions": outcome.questions,
        "few_shot": outcome.few_shot,
        "higher_is_better": outcome.higher_is_better,
    }
    told: Kept = {
        "prints": mark,
        "models": outcome.figures,
        "parts": outcome.parts,
        "items": outcome.items,
    }
    if outcome.programs:
        told["programs"] = outcome.programs
    for key, value in told.items():
        whole[key] = kept.get(key, {}) | {title: value}
    return whole


def compared(whole: Kept, gap: Gap) -> Kept:
    """The same with how far the student is from its control, and what of the gap it recovered."""
    models = whole["models"]
    against, gaps = {}, {}
    for figure in models.get("student", {}):
        if figure.endswith("_stderr") or figure not in models.get("control", {}):
            continue
        against[figure] = difference(whole, figure, "student", "control")
        if figure in models.get("teacher", {}):
            gaps[figure] = _recovered(
                whole, figure, difference(whole, figure, "teacher", "control"), gap
            )
    return whole | _told(against, gaps)


def _told(against: dict[str, Any], gaps: dict[str, float | None]) -> dict[str, Any]:
    return {
        "student_against_control": against,
        "gap_recovered": {figure: gap for figure, gap in gaps.items() if gap is not None},
    }


def _recovered(whole: Kept, figure: str, behind: dict[str, float | None], gap: Gap) -> float | None:
    """None where teacher and control differ by no more than twice the error of that: the quotient would be noise."""
    distance, error = behind["difference"], behind["stderr"]
    if distance is None or abs(distance) <= 2 * (error or 0.0):
        return None
    teacher, student, control = (
        whole["models"][name][figure] for name in ("teacher", "student", "control")
    )
    higher = whole["higher_is_better"].get(figure.partition(".")[0], True)
    return gap(teacher, student, control, higher)


def difference(whole: Kept, figure: str, one: str, other: str) -> dict[str, float | None]:
    """One model's figure less another's, and the standard error of that over the pairs; None where it is no mean."""
    models = whole["models"]
    error = None
    first, second = (_flat(whole, name, figure) for name in (one, other))
    if first is not None and second is not None and len(first) == len(second) > 1:
        pairs = np.array(first) - np.array(second)  # (questions,)
        error = float(pairs.std(ddof=1) / math.sqrt(len(pairs)))
    return {"difference": models[one][figure] - models[other][figure], "stderr": error}


def _flat(whole: Kept, name: str, figure: str) -> list[float] | None:
    """The values of all questions, where their mean is the figure."""
    found = []
    for part in whole["items"][name].values():
        found += part.get(figure, [])
    if not found or isinstance(found[0], list):
        return None
    same = math.isclose(sum(found) / len(found), whole["models"][name][figure], abs_tol=1e-9)
    return found if same else None


def averaged(group: str, whole: dict[str, Kept], about: dict[str, Any], gap: Gap) -> Kept:
    """The average of a group's tasks, of every model that has them all. whole: what is kept of each task."""
    of = {name: GROUPS[group][name] for name in whole}
    models = {
        title: _average([kept["models"][title] for kept in whole.values()], of)
        for title in next(iter(whole.values()))["models"]
        if all(title in kept["models"] for kept in whole.values())
    }
    kept: Kept = about | {
        "of": of,
        "questions": sum(each["questions"] for each in whole.values()),
        "few_shot": None,
        "higher_is_better": {"average": True},
        "models": models,
    }
    against, gaps = {}, {}
    if {"student", "control"} <= models.keys():
        against["average"] = _apart(whole, of, "student", "control")
    if {"teacher", "student", "control"} <= models.keys():
        behind = _apart(whole, of, "teacher", "control")
        gaps["average"] = _recovered(kept, "average", behind, gap)
    return kept | _told(against, gaps)


def _average(figures: Sequence[dict[str, float]], of: dict[str, str]) -> dict[str, float]:
    values = [each[figure] for each, figure in zip(figures, of.values(), strict=True)]
    errors = [
        each.get(f"{figure}_stderr") for each, figure in zip(figures, of.values(), strict=True)
    ]
    found = {"average": sum(values) / len(values)}
    error = _error(errors)
    return found if error is None else found | {"average_stderr": error}


def _apart(whole: dict[str, Kept], of: dict[str, str], one: str, other: str) -> dict[str, Any]:
    found = [difference(kept, of[name], one, other) for name, kept in whole.items()]
    distance = sum(each["difference"] or 0.0 for each in found) / len(found)
    return {"difference": distance, "stderr": _error([each["stderr"] for each in found])}


def _error(errors: Sequence[float | None]) -> float | None:
    """The standard error of an average of independent figures."""
    known = [each for each in errors if each is not None]
    if len(known) < len(errors):
        return None
    return math.sqrt(sum(each**2 for each in known)) / len(known)
