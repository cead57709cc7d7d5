"""How fast a stage of a recipe could go at most on its devices, for the log to say what share of it is used."""

from __future__ import annotations

from limbeck import assembly
from limbeck.assembly import Ground
from limbeck.recipe import Stage
from limbeck.training import flops
from limbeck.training.parallel import World
from limbeck.training.step import Step
from limbeck.types import Teacher


def fastest(
    base: Ground, stage: Stage, step: Step, teacher: Teacher | None, world: World
) -> float | None:
    """Tokens per second of all ranks at their peak, or None where peak or work is not known."""
    return flops.fastest(
        base.recipe,
        step,
        teacher,
        world,
        length=assembly.stage_source(base, stage).length,
        dtype=base.dtype,
        # A clone's matrices are products of what is trained, until it is merged.
        plain=stage.merged or base.recipe.student.name != "low_rank_clone",
    )
