"""Carries a recipe out, piece by piece; a piece that is finished is a file that exists."""

from __future__ import annotations

import contextlib
import functools
import gc
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from limbeck import (
    assembly,
    benchmarking,
    cards,
    choosing,
    exporting,
    judging,
    linking,
    loading,
    prints,
    recorded,
    recording,
    telemetry,
    timing,
    tracking,
    watching,
)
from limbeck.arm import train, trained_student
from limbeck.assembly import Ground
from limbeck.errors import Interrupted, LimbeckError, RecipeError
from limbeck.folder import Folder, owned
from limbeck.planning import Several
from limbeck.progress import say
from limbeck.recipe import Recipe
from limbeck.report import render
from limbeck.standing import Arm
from limbeck.training import parallel
from limbeck.training.signals import Stop
from limbeck.types import Teacher


def carry_out(recipe: Recipe) -> None:
    """Record, train, control, export, evaluate, report. The same call again goes on, or says it is done."""
    stop = Stop()
    tracking.check(recipe)
    benchmarking.check(recipe)
    base, world = begun(recipe)
    recipe = base.recipe
    runs = [
        (assembly.beside(base, one) if recipe.students else base, Folder(Path(one.runs) / one.name))
        for one in recipe.each
    ]
    if not world.first:
        _prepare(runs, world)
        return _train_all(recipe, runs, world, stop)
    with contextlib.ExitStack() as stack:
        for each, folder in runs:
            stack.enter_context(owned(folder.path))
            folder.check(loading.dump(each.recipe), prints.identity)
        _prepare(
            runs, world
        )  # before a folder is claimed: a recipe whose text is not there claims none
        for each, folder in runs:
            folder.begin(loading.dump(each.recipe), prints.identity)
            prints.write(each, folder)
        folders = [folder.path for _, folder in runs]
        stack.enter_context(
            telemetry.sampled(folders, recipe.telemetry.every_seconds, world.device)
        )
        told = stack.enter_context(contextlib.closing(tracking.Told()))
        _train_all(recipe, runs, world, stop, told)
        if world.size > 1:
            dist.destroy_process_group()
        for each, folder in runs:
            _judge(each, folder, stop, told)
        for _, folder in runs:
            judging.tell(folder, render.write(folder.path))
    return None


def _judge(base: Ground, folder: Folder, stop: Stop, told: tracking.Told) -> None:
    """Exports, measures and describes what was trained."""
    export_all(base, folder, stop)
    if base.recipe.evaluate and not judging.done(folder, base.recipe.evaluate):
        told.arm(base.recipe, folder).figures(judging.evaluate(base, folder, stop))
    job = benchmarking.job_of(base, folder)
    if job is not None:
        benchmarking.of_run(base, folder, job, stop)
    if base.recipe.evaluate and base.recipe.evaluate.speed:
        timing.of_run(base, folder, base.recipe.evaluate.speed, f"limbeck evaluate {folder.path}")
    cards.renew(plain_arms(base, folder), folder)


def begun(recipe: Recipe) -> tuple[Ground, parallel.World]:
    """The ground of a run, with what is left to the probe settled, and this process's place in the world."""
    assembly.settle(recipe)
    base = assembly.ground(recipe)
    choosing.check(recipe)
    world = parallel.start(base.device)
    base = choosing.chosen(base, world)
    linking.check(base.recipe)
    return base, world


def arms(
    base: Ground,
    world: parallel.World,
    folder: Folder,
    stop: Stop,
    *,
    whole: Recipe | None = None,
) -> list[Arm]:
    """The student's arm, and the control's where the recipe asks for one.

    whole: the recipe of all students that learn beside this one, whose taps are recorded in one go.
    """
    teacher = functools.cache(lambda: _teacher(base, stop, world, whole or base.recipe))
    asked, compared = watching.learns(base.recipe), watching.compares(base.recipe)
    learned, beside = (teacher if any_ else _nobody for any_ in (asked, asked or compared))
    found = [Arm(base, folder, "student", world, learned, stop, beside)]
    if base.recipe.control:
        alone = assembly.with_recipe(base, loading.control_of(base.recipe))
        beside = teacher if compared else _nobody
        found.append(Arm(alone, folder.control, "control", world, _nobody, stop, beside))
    return found


def _nobody() -> None:
    """There is no teacher."""


def plain_arms(base: Ground, folder: Folder) -> list[Arm]:
    """The arms in one process on the CPU, to look at what they have become."""
    return arms(base, parallel.World(0, 1, torch.device("cpu")), folder, Stop())


def _prepare(runs: list[tuple[Ground, Folder]], world: parallel.World) -> None:
    """Text is prepared by the first rank; the others find it done."""
    for base, _ in runs:
        if not world.first:
            parallel.barrier()
        for stage in base.recipe.stages:
            assembly.stage_source(base, stage)
        watching.check_text(base)
        if world.first:
            parallel.barrier()


def _train_all(
    whole: Recipe,
    runs: list[tuple[Ground, Folder]],
    world: parallel.World,
    stop: Stop,
    told: tracking.Told | None = None,
) -> None:
    stop.install()  # until here a signal ends the process at once: preparing is whole or absent
    learning, controls = [], []
    for base, folder in runs:
        found = arms(base, world, folder, stop, whole=whole)
        if told is not None:
            found = [replace(a, tell=told.arm(a.recipe, a.folder).line) for a in found]
        student, *alone = found
        named = f"student {base.recipe.name}" if len(runs) > 1 else "student"
        learning.append(replace(student, title=named))
        controls += alone
    # One teacher for all of them: the first arm's.
    teacher, beside = learning[0].teacher, learning[0].beside
    train([replace(arm, teacher=teacher, beside=beside) for arm in learning])
    if watching.compares(whole):
        controls = [replace(arm, beside=beside) for arm in controls]
    del teacher, beside
    learning.clear()  # a finished arm gives its teacher back
    while controls:
        gc.collect()  # FSDP's modules refer to themselves: the next arm would stand beside this one
        arm = controls.pop(0)
        if world.first:
            arm.folder.path.mkdir(exist_ok=True)
            arm.folder.begin(loading.dump(arm.recipe), prints.identity)
        train([arm])
    gc.collect()


def _teacher(base: Ground, stop: Stop, world: parallel.World, whole: Recipe) -> Teacher | None:
    """The teacher of the run; what a cached one has not recorded yet is recorded first."""
    part = base.recipe.teacher
    if part is None:
        return None
    if part.name == "cached" and (part.options.get("model") or part.options.get("server")):
        _record(base, stop, world.rank, world.size, whole)
        parallel.barrier()
    # Of several ranks none may leave the others waiting for it: they stop together, between two steps.
    return recorded.heeding(assembly.teacher(base), stop if world.size == 1 else None)


def record(recipe: Recipe, *, rank: int, world: int) -> None:
    """Records what a cached teacher says of every row that the recipe's stages will read."""
    if recipe.teacher is None or recipe.teacher.name != "cached":
        raise RecipeError(
            "record: the recipe's teacher is not 'cached', so there is nothing to record."
        )
    if rank >= world:
        raise LimbeckError(f"record: rank {rank} of {world}; ranks count from 0.")
    assembly.settle(recipe)
    alone = parallel.World(0, 1, torch.device("cpu"))
    base = assembly.ground(recipe)
    choosing.check(recipe)
    base = choosing.chosen(base, alone)
    recipe = base.recipe
    linking.check(recipe)
    for stage in recipe.stages:
        assembly.stage_source(base, stage)
    watching.check_text(base)
    folders = (
        [Path(recipe.runs) / recipe.name] if (Path(recipe.runs) / recipe.name).is_dir() else []
    )
    with telemetry.sampled(folders, recipe.telemetry.every_seconds, base.device):
        counts = _record(base, Stop().install(), rank, world, recipe)
    say(f"recorded {counts['recorded']:,} rows, {counts['already']:,} were there already.")


def _record(base: Ground, stop: Stop, rank: int, world: int, whole: Recipe) -> dict[str, int]:
    parts = []
    for stage in base.recipe.stages:
        source = assembly.stage_source(base, stage)
        steps = stage.budget.steps(stage.rows_per_step * source.length)
        # Later epochs bring no new row.
        parts.append((source, min(steps * stage.rows_per_step, source.rows)))
    if looked_at := watching.recorded(base, parts[0][0].length):
        parts.append(looked_at)
    rows = Several(parts)
    teacher = recorded.live_teacher(base, stop if world == 1 else None)
    about = recorded.cache_about(base, rows.length)
    done = recording.record(
        teacher,
        rows,
        range(rows.rows),
        Path(recorded.options(base.recipe)["path"]),
        about,
        features=recorded.feature_abouts(whole, about),
        head=functools.partial(recorded.head, base, teacher, whole),
        rank=rank,
        world=world,
        micro_rows=recorded.rows_at_once(base.recipe),
        chunk=base.recipe.compute.chunk,
        stop=stop,
        device=base.device,
    )
    return {"recorded": done.recorded, "already": done.already_there}


def export_all(base: Ground, folder: Folder, stop: Stop) -> None:
    """Writes what student and control have become as folders; one that is there is verified."""
    plain = parallel.World(0, 1, torch.device("cpu"))
    for arm in arms(base, plain, folder, stop):
        if stop():
            raise Interrupted("Stopped before exporting; the same command goes on with it.")
        asked = base.recipe.export
        if arm.folder.export.is_dir():
            exporting.check(arm.folder.export, asked.dtype, asked.checkpoint)
            continue
        student, tokens = trained_student(arm)
        say(f"{arm.title}: exports to {arm.folder.export}")
        difference = exporting.export(
            student,
            base.tokenizer,
            arm.folder.export,
            dtype=asked.dtype,
            checkpoint=asked.checkpoint,
            max_difference=asked.max_difference,
            probe=judging.probe(base),
            card=cards.text(arm, student, tokens, folder),
        )
        say(f"{arm.title}: reloaded in a fresh process, logits differ by {difference:.2e} at most.")
