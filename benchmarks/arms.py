"""Arms of an experiment: each a recipe that `limbeck train` would carry out, trained and judged without its export.

Every finished arm is written down at once, and the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from side_by_side import RESULTS, save

from limbeck import arm as arm_room
from limbeck import assembly, files, fitting, loading, run
from limbeck.arm import train, trained_student
from limbeck.evaluation._judge import judge
from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.bits_per_byte import bits_per_byte
from limbeck.folder import Folder
from limbeck.standing import Arm
from limbeck.training import links, loop, parallel

Made = Callable[[str, int], dict[str, Any]]
"""The recipe of an arm and a seed, as plain data."""


More = Callable[[Any, Any], dict[str, Any]]
"""What else is measured, of a student and its tokenizer."""


def measured(
    tree: dict[str, Any],
    arm: str,
    seed: int,
    more: More = lambda student, tokenizer: {},  # noqa: ARG005
) -> dict[str, Any]:
    """Trains one arm and judges it on all of its `evaluate.rows`."""
    base, learner = _learner(tree)
    asked = base.recipe
    assert asked.evaluate is not None
    begun = time.monotonic()
    train([learner])
    seconds = time.monotonic() - begun
    student, tokens = trained_student(learner)
    teacher, source = assembly.load_teacher(base), assembly.held_out(base)
    assert teacher is not None
    assert source is not None
    models = {"teacher": teacher, "student": student.to(base.dtype)}
    measures = [(bits_per_byte, {}), (agreement, {})]
    found = judge(
        models, source, measures, rows=asked.evaluate.rows, vocab=base.vocab,
        device=torch.device("cpu"),
    ).figures  # fmt: skip
    return {
        "arm": arm,
        "seed": seed,
        "bits_per_byte": found["bits_per_byte"]["student"]["bits_per_byte"],
        "kl": found["agreement"]["student"]["kl_to_teacher"],
        "teacher": found["bits_per_byte"]["teacher"]["bits_per_byte"],
        "parameters": sum(p.numel() for p in student.parameters()),
        "tokens": tokens,
        "seconds": seconds,
    } | more(models["student"], base.tokenizer)


def _learner(tree: dict[str, Any]) -> tuple[assembly.Ground, Arm]:
    asked = fitting.check(loading.build(tree))
    base, world = run.begun(asked)
    folder = Folder(Path(asked.runs) / asked.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    (learner,) = run.arms(base, world, folder, run.Stop())
    return base, learner


def stepping(tree: dict[str, Any]) -> Callable[[], Any]:
    """One optimizer step of a recipe's first stage, as `limbeck train` takes it."""
    _, learner = _learner(tree)
    job = arm_room._begun(learner, 0, 0)
    assert job is not None
    job.ahead.wanted = links.wanted([job.functions])
    job.step_module.train()
    return lambda: loop.one_step([job])


def options(purpose: str, work: str) -> argparse.ArgumentParser:
    """What every experiment with arms on plain text can be told."""
    parser = argparse.ArgumentParser(description=purpose.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a step of one arm")
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--rows", type=int, default=128, help="held-out rows that judge")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="../shared/data/text")
    parser.add_argument("--work", default=work)
    return parser


def table(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm, in the order of their first runs: means over seeds, and the smallest and largest."""
    rows = []
    for arm in dict.fromkeys(one["arm"] for one in runs):
        mine = [one for one in runs if one["arm"] == arm]
        row: dict[str, Any] = {"arm": arm, "seeds": len(mine)}
        told = [("bits/byte", "bits_per_byte"), ("KL", "kl"), ("retrieval", "retrieval")]
        told += [("stops", "stops")]
        for name, key in (one for one in told if one[1] in mine[0]):
            values = [one[key] for one in mine]
            row |= {name: statistics.mean(values)}
            row |= {f"{name} least": min(values), f"{name} most": max(values)}
        rows.append(row)
    return rows


def carried_out(
    name: str,
    plan: Sequence[tuple[str, int]],
    made: Made,
    *,
    settings: str,
    quick: bool,
    told: Callable[[str, int], dict[str, Any]] = lambda arm, seed: {},  # noqa: ARG005
    more: More = lambda student, tokenizer: {},  # noqa: ARG005
) -> None:
    """Every arm and seed of a plan that results/<name>-runs.json does not hold yet; then results/<name>.json.

    told: what is written beside a run's figures. quick: writes nothing.
    """
    store = RESULTS / f"{name}-runs.json"

    def known() -> dict[str, Any]:
        # Read again each time: two of these commands may carry out different arms side by side.
        found: dict[str, Any] = files.read_json(store) if store.is_file() and not quick else {}
        return found

    runs: list[dict[str, Any]] = known().get(settings, [])
    for arm, seed in plan:
        if any((one["arm"], one["seed"]) == (arm, seed) for one in known().get(settings, [])):
            continue
        found = measured(made(arm, seed), arm, seed, more) | told(arm, seed)
        gc.collect()
        before = known()
        runs = [*before.get(settings, []), found]
        if not quick:
            files.write_json(store, before | {settings: runs})
            save(name, table(runs), note=settings)
    save(name, table(runs), note=settings, quick=quick)
    parallel.barrier()
