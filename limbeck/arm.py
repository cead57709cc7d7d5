"""One arm of a run: a student trained through every stage of a recipe, from where it was left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from limbeck import assembly, linking, metering, prints, recorded, standing, watching
from limbeck.errors import LimbeckError
from limbeck.models import layout, place
from limbeck.progress import say
from limbeck.recipe import Stage
from limbeck.standing import Arm
from limbeck.training import checkpoint, frozen, loop, optim, parallel, projectors
from limbeck.training.links import Tied
from limbeck.training.meter import Log
from limbeck.training.step import Step
from limbeck.training.trained import counts, trainable
from limbeck.types import Teacher, Wanted

LOOKED_AT = 8
"""Rows of text that a projector may begin from."""


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
    newest = standing.newest(arm, index)
    final = standing.final(arm, index)
    if newest == final and arm.recipe.resume != "none":
        say(f"{arm.title}: stage {arm.recipe.stages[index].name} is done ({final}).")
        return None
    # What is there already goes before what `resume` names, which is only where this run began.
    begins_at = newest or (standing.told_checkpoint(arm) if index == first else None)
    return _stage(arm, index, begins_at, follows=index > first)


def _first_stage(arm: Arm) -> int:
    """The stage in which training begins: the first, or that of the checkpoint which `resume` names."""
    told = standing.told_checkpoint(arm)
    if told is None:
        return 0
    names = [stage.name for stage in arm.recipe.stages]
    stage = checkpoint.state(told)["stage"]
    if stage not in names:
        raise LimbeckError(
            f"{told} is of stage {stage}; wanted one of {', '.join(names)}. Correct 'resume'."
        )
    return names.index(stage)


def _merges(arm: Arm, index: int) -> bool:
    """Whether a stage is the first that trains the student as it will leave, behind others that do not."""
    stages = arm.recipe.stages
    return index > 0 and stages[index].merged and not stages[index - 1].merged


def _student(arm: Arm, index: int) -> PreTrainedModel:
    """The student that a stage trains, at its start; of a stage that merges, what the one before it left, merged."""
    if not (_merges(arm, index) and standing.final(arm, index - 1).is_dir()):
        return assembly.student(arm.base, arm.recipe.stages[index])
    found = assembly.student(arm.base)
    plain = parallel.World(0, 1, torch.device("cpu"))
    checkpoint.load(
        standing.final(arm, index - 1), Step(found, vocab=arm.base.vocab), None, world=plain
    )
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
        checkpoint.load(standing.final(arm, index - 1), step, None, world=world)
    if begins_at is not None and recorded.for_one_head(teacher):
        # `resume` may name a checkpoint of another run, which trained the head. Once sharded, no rank has all of it.
        checkpoint.load(begins_at, step, None, world=world)
    recorded.check_head(arm.base, teacher, student)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in trained)
    if world.first:
        learns, every = counts(student, trained)
        say(f"{arm.title}: stage {stage.name} trains {learns:,} of {every:,} parameters.")
    _check_told(arm, begins_at, student)
    full = kept | (checkpoint.names(begins_at) if begins_at else set())
    still = frozen.settled(step, full, arm.base.dtype, teacher, world)
    step.to(world.device)
    if recipe.compute.compile and not any(isinstance(one, Tied) for one in functions):
        place.compile_blocks(layout.layers(student), arm.title)
    parallel.shard(step, layout.layers(student), world, arm.base.dtype, still=still)
    adam = optim.adamw(step, stage.optimizer)
    state = _resumed(arm, begins_at, step, adam)
    watch = watching.made(arm.base, stage, arm.beside(), wanted=functions, world=world)
    if watch is not None:
        watch.resume(state["watch"])
    return loop.Loop(
        step_module=step,
        adam=adam,
        source=source,
        stage=stage,
        functions=functions,
        teacher=teacher,
        world=world,
        seed=recipe.seed,
        save=standing.saver(arm, index, (step, adam), kept, watch),
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
        watch=watch,
    )  # fmt: skip


def _check_told(arm: Arm, begins_at: Path | None, student: PreTrainedModel) -> None:
    """Refuses a checkpoint that `resume` names where it is of a student made otherwise."""
    if begins_at is not None and begins_at == standing.told_checkpoint(arm):
        whole = {f"student.{name}" for name, _ in student.named_parameters()}
        prints.check_checkpoint(begins_at, arm.recipe, whole)


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
) -> dict[str, Any]:
    """Fills step and optimizer from a checkpoint. Returns where it stood, and what its looks had found."""
    if here is None:
        return {"step": 0, "tokens": 0, "watch": None}
    if arm.recipe.resume == "none":
        raise LimbeckError(
            f"resume is 'none', but {here.parent} holds checkpoints. "
            "Give the run another name, or remove them."
        )
    state = checkpoint.load(here, step, adam, world=arm.world)
    say(f"{arm.title}: goes on from {here}.")
    return {"step": state["step"], "tokens": state["tokens"], "watch": state.get("watch")}


def trained_student(arm: Arm) -> tuple[PreTrainedModel, int]:
    """The student of the final checkpoint as a plain model, and the tokens it was trained on."""
    final = standing.finished(arm)
    if final is None:
        raise LimbeckError(f"{arm.folder.path}: the {arm.title} is not trained to its end yet.")
    if arm.recipe.export.checkpoint == "best":
        final = standing.best(arm, final.parent)
    last = arm.recipe.stages[-1]
    student = assembly.student(arm.base, last)
    step = Step(student, vocab=arm.base.vocab)
    plain = parallel.World(0, 1, torch.device("cpu"))
    checkpoint.load(final, step, None, world=plain)
    tokens = sum(
        standing.trained_steps(arm, i) * s.rows_per_step * assembly.stage_source(arm.base, s).length
        for i, s in enumerate(arm.recipe.stages)
    )
    return student if last.merged else assembly.finisher(arm.recipe)(student), tokens
