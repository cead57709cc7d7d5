"""HumanEval and MBPP: which program an answer makes, what becomes of it, and pass@k. lm-eval calls these functions by name."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from limbeck.errors import RecipeError
from limbeck.evaluation import _sandbox
from limbeck.evaluation._sandbox import Isolation, Limits
from limbeck.recipe import Benchmarks

TASKS = {
    "humaneval": {"dataset_path": "openai/openai_humaneval"},
    "mbpp": {"dataset_path": "google-research-datasets/mbpp", "dataset_name": "full"},
}
"""The tasks whose answers are run, and where lm-eval has their rows from without a folder."""

LIMITS = Limits()
# Chen et al. (2021): what pass@1 is drawn with.
_DRAWN = {"do_sample": True, "temperature": 0.2, "top_p": 0.95}
_HERE = "!function limbeck.evaluation._code."
_RUNNERS: dict[Isolation, str] = {"namespaces": "apart", "syscalls": "filtered"}

Answers = Sequence[Sequence[str]]
"""All answers to each question, in lm-eval's order."""
Row = Mapping[str, Any]


def check(names: Sequence[str], asked: Benchmarks, where: str) -> None:
    """Raises where answers would be run that nobody allowed, or that this machine cannot lock in."""
    ran = [name for name in names if name in TASKS]
    if not ran and asked.samples is not None:
        raise RecipeError(f"{where}samples: it belongs to {' and '.join(TASKS)}, which are not asked.")  # fmt: skip
    if ran and not asked.allow_code:
        raise RecipeError(
            f"{where}tasks: '{ran[0]}' runs programs that a model wrote, here on this machine. They would be locked in: "
            "no network, no files but an empty folder in memory, little time and memory (docs/evaluate.md). "
            "Allow it with 'allow_code: true' in a recipe, --allow-code on the command line, or leave the task out."
        )
    if ran:
        _sandbox.check(asked.isolation)


def settings(asked: Benchmarks) -> dict[str, Any]:
    """What a figure depends on beside the model, rows and lm-eval."""
    return {
        "samples": asked.samples,
        "isolation": asked.isolation,
        "limits": asdict(LIMITS),
        "python": platform.python_version(),
    }


def configured(body: dict[str, Any], asked: Benchmarks) -> dict[str, Any]:
    """lm-eval's configuration of such a task with what was asked: how often it is answered, and how that is run."""
    samples = asked.samples or 1
    runner = {"function": "custom", "filter_fn": _HERE + _RUNNERS[asked.isolation]}
    programs = {"function": "custom", "filter_fn": f"{_HERE}{body['task']}"}
    found = body | {
        "repeats": samples,
        "filter_list": [{"name": "none", "filter": [programs, runner]}],
        "process_results": f"{_HERE}passed",
        "metric_list": [
            {"metric": f"pass@{k}", "aggregation": "mean", "higher_is_better": True}
            for k in counts(samples)
        ],
    }
    if asked.samples is not None:
        found |= {"generation_kwargs": body["generation_kwargs"] | _DRAWN}
    if "fewshot_config" in body:
        found |= {"fewshot_config": body["fewshot_config"] | {"process_docs": f"{_HERE}examples"}}
    return found if asked.data is not None else found | {"dataset_kwargs": None, **TASKS[body["task"]]}  # fmt: skip


def humaneval(answers: Answers, rows: Sequence[Row]) -> list[list[str]]:
    """The prompt, which is the head of a function, with the answer as its body, and the row's tests of it."""
    return [
        [
            f"{row['prompt']}{answer}\n{row['test']}\ncheck({row['entry_point']})\n"
            for answer in each
        ]
        for each, row in zip(answers, rows, strict=True)
    ]


def mbpp(answers: Answers, rows: Sequence[Row]) -> list[list[str]]:
    """The answer, then what the row's tests need, then the tests."""
    return [
        ["\n".join([answer, row["test_setup_code"], *row["test_list"], ""]) for answer in each]
        for each, row in zip(answers, rows, strict=True)
    ]


def examples(rows: Any) -> list[Row]:
    """What stands before a question of MBPP: tasks 2, 3 and 4 (Austin et al., 2021), and those behind them where more are asked."""
    return [row for row in rows if row["task_id"] > 1]


def apart(programs: Answers, _rows: Sequence[Row]) -> list[list[str]]:
    """What became of each program, run in namespaces of its own."""
    return _outcomes(programs, "namespaces")


def filtered(programs: Answers, _rows: Sequence[Row]) -> list[list[str]]:
    """The same where the system calls alone are filtered."""
    return _outcomes(programs, "syscalls")


def _outcomes(programs: Answers, isolation: Isolation) -> list[list[str]]:
    flat = [text for each in programs for text in each]
    found = iter(_sandbox.run_all(flat, LIMITS, isolation=isolation))
    return [[str(next(found)) for _ in each] for each in programs]


def passed(_row: Row, outcomes: Sequence[Sequence[str]]) -> dict[str, float]:
    """pass@k of one question, of what became of its programs."""
    (found,) = outcomes
    right = sum(outcome == "passed" for outcome in found)
    return {f"pass@{k}": pass_at(k, len(found), right) for k in counts(len(found))}


def counts(samples: int) -> list[int]:
    """The k of pass@k that are told of so many samples: 1, 10, 100, and all of them."""
    return sorted({k for k in (1, 10, 100) if k < samples} | {samples})


def pass_at(k: int, samples: int, right: int) -> float:
    """How likely one of k samples passes, without bias: 1 - C(n - c, k) / C(n, k) (Chen et al., 2021)."""
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)
