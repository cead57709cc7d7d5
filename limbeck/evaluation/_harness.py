"""lm-evaluation-harness through its Python API: tasks are loaded before any model, then each model is asked (limbeck[harness])."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from limbeck.errors import DataError, ModelError, RecipeError
from limbeck.evaluation import _code, _tasks
from limbeck.recipe import Benchmarks

# lm-eval's own seeds: of `random`, and of numpy, torch and the choice of examples.
_RANDOM, _OTHERS = 0, 1234


@dataclass(frozen=True)
class Outcome:
    """What a model has in a task. items: {part: {figure: one value a question}}, parts: figures of a group's tasks.

    programs: {part: what became of each program of each question}, of tasks that run what was answered.
    """

    figures: dict[str, float]
    questions: int
    higher_is_better: dict[str, bool]
    few_shot: int | None = None
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    items: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    programs: dict[str, list[list[str]]] = field(default_factory=dict)


def release() -> str:
    """The version of lm-eval, since a figure means nothing without it."""
    _tasks.lm_eval_tasks()
    return version("lm-eval")


def load(names: Sequence[str], asked: Benchmarks, folder: Path) -> dict[str, Any]:
    """lm-eval's tasks of each name, their rows read. folder: where configurations of local rows are written."""
    ours = [name for name in names if asked.data is not None or name in _code.TASKS]
    found = {}
    if ours:
        _tasks.write(ours, asked, folder)
        manager = _lm_eval().TaskManager(include_path=str(folder), include_defaults=False)
        found = {name: _loaded(manager, name) for name in ours}
    if len(ours) < len(names):
        manager = index(names)
    return {name: found[name] if name in ours else _loaded(manager, name) for name in names}


def index(names: Sequence[str]) -> Any:
    """lm-eval's index of its own tasks, once it has them all."""
    manager = _whole_index()
    for name in names:
        _refuse_unknown(name, manager.task_index)
    return manager


@functools.cache
def _whole_index() -> Any:
    """Made once a process: it takes seconds to read some ten thousand configurations."""
    return _lm_eval().TaskManager()


def _lm_eval() -> Any:
    """lm-eval's room of tasks, told to be quiet."""
    _tasks.lm_eval_tasks()
    from datasets import disable_progress_bars
    from lm_eval import tasks

    disable_progress_bars()  # one for each of hundreds of small files
    # It warns of what its own configurations leave to defaults.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return tasks


def _refuse_unknown(name: str, index: dict[str, Any]) -> None:
    """Refuses what lm-eval has no such task of, and a tag, which is several tasks and has no figure."""
    if name not in index:
        near = difflib.get_close_matches(name, index, n=3)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise RecipeError(f"benchmarks: lm-eval {release()} has no task '{name}'.{hint}")
    if index[name].kind.name == "TAG":
        inside = ", ".join(sorted(index[name].tags))
        raise RecipeError(
            f"benchmarks: '{name}' stands for several tasks; name them instead: {inside}."
        )


def _loaded(manager: Any, name: str) -> Any:
    from datasets.exceptions import DatasetsError

    try:
        found = manager.load([name])
    except (DatasetsError, OSError, ValueError, KeyError, TypeError) as reason:
        raise DataError(
            f"benchmarks: the rows of '{name}' do not load: {reason.__cause__ or reason}. With 'data' they are read "
            "from that folder, without it from the Hub: correct the rows, or leave the task out."
        ) from reason
    for task in found["tasks"].values():
        if name in _code.TASKS:
            break
        if vars(type(task)).get("UNSAFE_CODE") or vars(task).get("UNSAFE_CODE"):
            raise RecipeError(
                f"benchmarks: '{name}' runs code that a model wrote, which is done here of "
                f"{' and '.join(_code.TASKS)} alone."
            )
    group = found.get("groups", {}).get(name)
    if group is not None and not group.aggregate_metric_list:
        inside = ", ".join(sorted(found["tasks"]))
        raise RecipeError(
            f"benchmarks: '{name}' is a group without a figure of its own; name its tasks: {inside}."
        )
    return found


def judge(lm: Any, name: str, loaded: Any, asked: Benchmarks) -> Outcome:
    """A model's figures in a task that `load` gave.

    Not by `simple_evaluate`, which takes eight seconds a call to list what is installed; what it sets, is set here.
    """
    from lm_eval import evaluate

    seed = _OTHERS if asked.seed is None else asked.seed
    random.seed(_RANDOM if asked.seed is None else seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    for task in loaded["tasks"].values():
        own = task.get_config("num_fewshot")
        shots = own if asked.few_shot is None or own == 0 else asked.few_shot
        task.set_config(key="num_fewshot", value=shots or 0)
        task.set_fewshot_seed(seed=seed)
    try:
        # What lm-eval prints goes where progress goes.
        with contextlib.redirect_stdout(sys.stderr):
            found = evaluate(
                lm, loaded, limit=asked.limit, bootstrap_iters=asked.bootstrap, log_samples=True,
                confirm_run_unsafe_code=asked.allow_code,
            )  # fmt: skip
    except AssertionError as reason:
        raise ModelError(f"benchmarks: '{name}' cannot be put to this model: {reason}") from reason
    return _outcome(name, found)


def _outcome(name: str, found: dict[str, Any]) -> Outcome:
    shots = {found["n-shot"][task] for task in found["samples"]}
    better: dict[str, Any] = {}
    for task in found["samples"]:
        better |= found["higher_is_better"][task]
    return Outcome(
        figures=_figures(found["results"][name]),
        questions=sum(count["effective"] for count in found["n-samples"].values()),
        higher_is_better={metric: bool(told) for metric, told in better.items()},
        few_shot=shots.pop() if len(shots) == 1 else None,
        parts={part: _figures(told) for part, told in found["results"].items() if part != name},
        items={part: _items(samples) for part, samples in found["samples"].items()},
        programs={
            part: _ran(told) for part, told in found["samples"].items() if part in _code.TASKS
        },
    )


def _figures(told: dict[str, Any]) -> dict[str, float]:
    """{acc: 0.5, acc_stderr: 0.1} of lm-eval's {"acc,none": 0.5, "acc_stderr,none": 0.1, "alias": ...}."""
    found = {}
    for key, value in told.items():
        metric, comma, filtered = key.partition(",")
        if comma and isinstance(value, int | float) and math.isfinite(value):
            plain = metric.removesuffix("_stderr")
            name = _named(plain, filtered)
            found[name if plain == metric else f"{name}_stderr"] = float(value)
    return found


def _named(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric}.{filtered}"


def _items(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """One value a question, in the order of the questions, so that two models can be compared pair by pair."""
    found: dict[str, list[Any]] = {}
    for sample in sorted(samples, key=lambda each: int(each["doc_id"])):
        for metric in sample["metrics"]:
            value = sample[metric]
            plain = [float(each) for each in value] if isinstance(value, tuple) else float(value)
            found.setdefault(_named(metric, sample["filter"]), []).append(plain)
    return found


def _ran(samples: list[dict[str, Any]]) -> list[list[str]]:
    ordered = sorted(samples, key=lambda each: int(each["doc_id"]))
    return [list(sample["filtered_resps"][0]) for sample in ordered]
