"""One arm of a run: a student trained through every stage of a recipe, from where it was left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from limbeck import assembly, linking, metering, prints, recorded
from limbeck.assembly import Ground
from limbeck.errors import LimbeckError, RecipeError
from limbeck.folder import Folder
from limbeck.models import layout, place
from limbeck.progress import say
from limbeck.recipe import Recipe, Stage
from limbeck.training import checkpoint, frozen, heldout, loop, optim, parallel, projectors
from limbeck.training.links import Tied
from limbeck.training.meter import Log
from limbeck.training.step import Step
from limbeck.training.trained import counts, trainable
from limbeck.types import Source, Teacher, Wanted

LOOKED_AT = 8
"""Rows of text that a projector may begin from."""


@dataclass(frozen=True)
class Arm:
    """What is trained, where it is kept, and with whom. title: 'student' or 'control'. tell: who else hears its log."""

    base: Ground
    folder: Folder
    title: str
    world: parallel.World
    teacher: Callable[[], Teacher | None]
    stop: Callable[[], bool]
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


def finished(arm: Arm) -> Path | None:
    """The final checkpoint of the last stage, or None where there is still work."""
    final = _final(arm, len(arm.recipe.stages) - 1)
    return final if final.is_dir() else None


def train(arms: Sequence[Arm]) -> None:
    """Trains every stage that is not finished yet; several arms, with one teacher and the same stages, side by side."""
    stages = arms[0].recipe.stages
    for stage in stages:
        loop.check_split(stage, arms[0].world)
    first = _first_stage(arms[0])
    for index in range(first, len(stages)):
        found = [_begun(arm, index, first) for arm in arms]
        jobs = [job for job in found if job is not None]
        if jobs:
            loop.run(jobs)


def _begun(arm: Arm, index: int, first: int) -> loop.Loop | None:
    """A stage as far as it was carried before, or None where it is done."""
    newest = _newest(arm, index)
    final = _final(arm, index)
    if newest == final and arm.recipe.resume != "none":
        say(f"{arm.title}: stage {arm.recipe.stages[index].name} is done ({final}).")
        return None
    # What is there already goes before what `resume` names, which is only where this run began.
    begins_at = newest or (_told_checkpoint(arm) if index == first else None)
    return _stage(arm, index, begins_at, follows=index > first)


def _told_checkpoint(arm: Arm) -> Path | None:
    """The checkpoint that `resume` names, or None where it says auto or none."""
    return None if arm.recipe.resume in ("auto", "none") else Path(arm.recipe.resume)


def _first_stage(arm: Arm) -> int:
    """The stage in which training begins: the first, or that of the checkpoint which `resume` names."""
    told = _told_checkpoint(arm)
    if told is None:
        return 0
    names = [stage.name for stage in arm.recipe.stages]
    stage = checkpoint.state(told)["stage"]
    if stage not in names:
        raise LimbeckError(
            f"{told} is of stage {stage}; wanted one of {', '.join(names)}. Correct 'resume'."
        )
    return names.index(stage)


def _newest(arm: Arm, index: int) -> Path | None:
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


def _final(arm: Arm, index: int) -> Path:
    """Where the last checkpoint of a stage lies, once there is one."""
    return arm.checkpoints(index) / f"{last_step(arm, index):06d}"


def _merges(arm: Arm, index: int) -> bool:
    """Whether a stage is the first that trains the student as it will leave, behind others that do not."""
    stages = arm.recipe.stages
    return index > 0 and stages[index].merged and not stages[index - 1].merged


def _student(arm: Arm, index: int) -> PreTrainedModel:
    """The student that a stage trains, at its start; of a stage that merges, what the one before it left, merged."""
    if not (_merges(arm, index) and _final(arm, index - 1).is_dir()):
        return assembly.student(arm.base, arm.recipe.stages[index])
    found = assembly.student(arm.base)
    plain = parallel.World(0, 1, torch.device("cpu"))
    checkpoint.load(_final(arm, index - 1), Step(found, vocab=arm.base.vocab), None, world=plain)
    return assembly.merged(arm.recipe, found)


def _kept(arm: Arm, index: int, student: PreTrainedModel) -> set[str]:
    """What checkpoints of a stage hold: all that was trained so far; of a merged student everything, made of what was."""
    stages = arm.recipe.stages
    if stages[index].merged:
        return {f"student.{name}" for name, _ in student.named_parameters()}
    return {f"student.{n}" for s in stages[: index + 1] for n in trainable(student, s)}


def _stage(arm: Arm, index: int, begins_at: Path | None, *, follows: bool) -> loop.Loop:
    """A stage from a checkpoint, or from its start; `follows` loads what the stage before it trained."""
    recipe, stage, world = arm.recipe, arm.recipe.stages[index], arm.world
    source = assembly.stage_source(arm.base, stage)
    student, teacher = _student(arm, index), arm.teacher()
    trained, kept = trainable(student, stage), _kept(arm, index, student)
    if recipe.compute.activation_checkpointing:
        place.checkpoint_activations(student)
    functions = linking.functions(recipe, stage)
    maps = projectors.made(functions, next(student.parameters()).dtype, _looks(arm, stage, teacher))
    step = Step(student, vocab=arm.base.vocab, chunk=recipe.compute.chunk, projectors=maps)
    kept |= {f"{optim.PROJECTORS}{name}" for name, _ in maps.named_parameters()}
    if follows and not _merges(arm, index):
        checkpoint.load(_final(arm, index - 1), step, None, world=world)
    if begins_at is not None and recorded.for_one_head(teacher):
        # `resume` may name a checkpoint of another run, which trained the head. Once sharded, no rank has all of it.
        checkpoint.load(begins_at, step, None, world=world)
    recorded.check_head(arm.base, teacher, student)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in trained)
    if world.first:
        learns, every = counts(student, trained)
        say(f"{arm.title}: stage {stage.name} trains {learns:,} of {every:,} parameters.")
    if begins_at is not None and begins_at == _told_checkpoint(arm):
        whole = {f"student.{name}" for name, _ in student.named_parameters()}
        prints.check_checkpoint(begins_at, recipe, whole)
    full = kept | (checkpoint.names(begins_at) if begins_at else set())
    still = frozen.settled(step, full, arm.base.dtype, teacher, world)
    step.to(world.device)
    if recipe.compute.compile and not any(isinstance(one, Tied) for one in functions):
        for layer in layout.layers(student):
            layer.compile()
    parallel.shard(step, layout.layers(student), world, arm.base.dtype, still=still)
    adam = optim.adamw(step, stage.optimizer)
    state = _resumed(arm, begins_at, step, adam)
    return loop.Loop(
        step_module=step,
        adam=adam,
        source=source,
        stage=stage,
        functions=functions,
        teacher=teacher,
        world=world,
        seed=recipe.seed,
        save=_saver(arm, index, step, adam, kept),
        log=Log(
            arm.folder.log, resumed_at=state["step"], stage=stage.name, writes=world.first, tell=arm.tell,
            fastest=metering.fastest(arm.base, stage, step, teacher, world),
        ),
        stop=arm.stop,
        checkpoint_every=recipe.checkpoints.every,
        log_every=recipe.log_every,
        step=state["step"],
        tokens=state["tokens"],
        title=f"{arm.title}, {stage.name}",
        saved_at=-1 if begins_at is None else state["step"],
    )  # fmt: skip


def _looks(arm: Arm, stage: Stage, teacher: Teacher | None) -> projectors.Look:
    """What shows the teacher's features on the first rows that a stage reads, for projectors that begin from them."""

    def look(taps: Sequence[str]) -> dict[str, Tensor]:
        assert teacher is not None
        source = assembly.stage_source(arm.base, stage)
        read = stage.budget.steps(stage.rows_per_step * source.length) * stage.rows_per_step
        batch = source.batch(range(min(LOOKED_AT, source.rows, read))).to(arm.world.device)
        wanted = Wanted(distribution=False, features=tuple(taps))
        return teacher.signal(batch, wanted).features

    return look


def _resumed(
    arm: Arm, here: Path | None, step: Step, adam: torch.optim.Optimizer
) -> dict[str, int]:
    """Fills step and optimizer from a checkpoint. Returns where it stood."""
    if here is None:
        return {"step": 0, "tokens": 0}
    if arm.recipe.resume == "none":
        raise LimbeckError(
            f"resume is 'none', but {here.parent} holds checkpoints. "
            "Give the run another name, or remove them."
        )
    state = checkpoint.load(here, step, adam, world=arm.world)
    say(f"{arm.title}: goes on from {here}.")
    return {"step": state["step"], "tokens": state["tokens"]}


def _saver(
    arm: Arm, index: int, step: Step, adam: torch.optim.Optimizer, kept: set[str]
) -> loop.Save:
    folder, keep = arm.checkpoints(index), arm.recipe.checkpoints
    judges = assembly.held_out(arm.base) if keep.keep_best else None
    rows = _judging_rows(arm, judges) if judges else range(0)
    made_of = prints.made_of(arm.recipe) if arm.world.first else {}

    def save(number: int, tokens: int) -> None:
        state = {
            "step": number,
            "tokens": tokens,
            "stage": arm.recipe.stages[index].name,
            "score": heldout.loss(step, judges, rows, arm.world) if judges else None,
            "seed": arm.recipe.seed,
            "threads": torch.get_num_threads(),
            prints.MADE_OF: made_of,
        }
        target = folder / f"{number:06d}"
        checkpoint.save(target, step, adam, state, kept=kept, world=arm.world)
        if arm.world.first:
            checkpoint.prune(folder, keep_last=keep.keep_last, keep_best=keep.keep_best)

    return save


def _judging_rows(arm: Arm, judges: Source) -> range:
    """Held-out rows behind those that are measured at the end: what chose a checkpoint must not grade it."""
    first = arm.recipe.evaluate.rows if arm.recipe.evaluate else 0
    rows = range(first, first + arm.recipe.checkpoints.held_out_rows)
    if rows.stop > judges.rows:
        raise RecipeError(
            f"checkpoints.held_out_rows: {len(rows)} rows behind the {first} of evaluate.rows are wanted, the "
            f"held-out text has {judges.rows}. Lower one of them, or give more text."
        )
    return rows


def trained_student(arm: Arm) -> tuple[PreTrainedModel, int]:
    """The student of the final checkpoint as a plain model, and the tokens it was trained on."""
    final = finished(arm)
    if final is None:
        raise LimbeckError(f"{arm.folder.path}: the {arm.title} is not trained to its end yet.")
    if arm.recipe.export.checkpoint == "best":
        judged = [item for item in checkpoint.found(final.parent) if item.score is not None]
        final = min(judged, key=lambda item: (item.score, -item.step)).folder
    last = arm.recipe.stages[-1]
    student = assembly.student(arm.base, last)
    step = Step(student, vocab=arm.base.vocab)
    plain = parallel.World(0, 1, torch.device("cpu"))
    checkpoint.load(final, step, None, world=plain)
    tokens = sum(
        last_step(arm, i) * s.rows_per_step * assembly.stage_source(arm.base, s).length
        for i, s in enumerate(arm.recipe.stages)
    )
    return student if last.merged else assembly.finisher(arm.recipe)(student), tokens
