"""One arm of a run, and how far it stands: its checkpoints, which of them is the last of a stage and which the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limbeck import assembly, prints, watching
from limbeck.assembly import Ground
from limbeck.errors import LimbeckError
from limbeck.folder import Folder
from limbeck.progress import say
from limbeck.recipe import Recipe
from limbeck.training import checkpoint, heldout, loop, parallel
from limbeck.training.step import Step
from limbeck.training.watch import Watch
from limbeck.types import Teacher


@dataclass(frozen=True)
class Arm:
    """What is trained, where it is kept, and with whom. title: 'student' or 'control'. tell: who else hears its log.

    beside: who is asked when held-out rows are looked at; a control learns from no teacher, and is compared with one.
    """

    base: Ground
    folder: Folder
    title: str
    world: parallel.World
    teacher: Callable[[], Teacher | None]
    stop: Callable[[], bool]
    beside: Callable[[], Teacher | None] = lambda: None
    tell: Callable[[dict[str, Any]], None] | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe of this arm."""
        return self.base.recipe

    def checkpoints(self, index: int) -> Path:
        """Where a stage's checkpoints lie."""
        return self.folder.checkpoints(index, self.recipe.stages[index].name)


def last_step(arm: Arm, index: int) -> int:
    """The number of steps of a stage."""
    stage = arm.recipe.stages[index]
    length = assembly.stage_source(arm.base, stage).length
    return stage.budget.steps(stage.rows_per_step * length)


def trained_steps(arm: Arm, index: int) -> int:
    """The steps that a finished stage was trained for: fewer where it ended early."""
    return int(final(arm, index).name)


def finished(arm: Arm) -> Path | None:
    """The final checkpoint of the last stage, or None where there is still work."""
    last = final(arm, len(arm.recipe.stages) - 1)
    return last if last.is_dir() else None


def told_checkpoint(arm: Arm) -> Path | None:
    """The checkpoint that `resume` names, or None where it says auto or none."""
    return None if arm.recipe.resume in ("auto", "none") else Path(arm.recipe.resume)


def newest(arm: Arm, index: int) -> Path | None:
    """The newest checkpoint of a stage that verifies; damaged ones after it are set aside, with the reason.

    One rank looks and tells: two might see a shared file system differently.
    """
    found: Path | None = None
    if arm.world.first:
        found, reasons = checkpoint.newest(arm.checkpoints(index))
        for reason in reasons:
            say(f"{arm.title}: passed over a checkpoint: {reason}")
        for path in checkpoint.set_aside(arm.checkpoints(index), found):
            say(f"{arm.title}: it is kept aside as {path}.")
    said = parallel.told(str(found or ""), arm.world)
    return Path(said) if said else None


def final(arm: Arm, index: int) -> Path:
    """Where the last checkpoint of a stage lies, once there is one: that of its last step, or where it ended early."""
    folder, early = arm.checkpoints(index), ""
    if arm.world.first:
        early = next((one.folder.name for one in checkpoint.found(folder) if one.ended), "")
    return folder / (parallel.told(early, arm.world) or f"{last_step(arm, index):06d}")


def saver(
    arm: Arm,
    index: int,
    trained: tuple[Step, torch.optim.Optimizer],
    kept: set[str],
    watch: Watch | None,
) -> loop.Save:
    """What makes a stage's work safe, judged where it is asked for."""
    folder, keep = arm.checkpoints(index), arm.recipe.checkpoints
    judges = assembly.held_out(arm.base) if keep.keep_best and watch is None else None
    rows = watching.rows(arm.recipe, judges) if judges else range(0)
    made_of = prints.made_of(arm.recipe) if arm.world.first else {}
    by = watching.figure(arm.recipe)

    def save(number: int, tokens: int) -> None:
        state = {
            "step": number,
            "tokens": tokens,
            "stage": arm.recipe.stages[index].name,
            "score": heldout.loss(trained[0], judges, rows, arm.world) if judges else None,
            "seed": arm.recipe.seed,
            "threads": torch.get_num_threads(),
            prints.MADE_OF: made_of,
        }
        if watch is not None:
            state |= {"score": watch.score(number), "judged_by": by, "watch": watch.state()}
            state["ended_early"] = watch.ended and number < last_step(arm, index)
        target = folder / f"{number:06d}"
        checkpoint.save(target, *trained, state, kept=kept, world=arm.world)
        if arm.world.first:
            checkpoint.prune(folder, keep_last=keep.keep_last, keep_best=keep.keep_best, by=by)

    return save


def best(arm: Arm, folder: Path) -> Path:
    """The checkpoint in this folder that is best by the figure of the recipe; the latest where several are."""
    by = watching.figure(arm.recipe)
    judged = [item for item in checkpoint.found(folder, by=by) if item.score is not None]
    if not judged:
        raise LimbeckError(
            f"{folder}: no checkpoint was judged by {by}. Set watch.best to the figure that it was trained with, "
            "or export.checkpoint to last."
        )
    return min(judged, key=lambda item: (item.score, -item.step)).folder
