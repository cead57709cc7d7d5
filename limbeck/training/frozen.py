"""What a stage does not train: held in the numbers that are computed with, and once where a live teacher has it too.

A parameter without a gradient needs no master in float32: sharding would cast it to the same numbers for every forward.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor, nn

from limbeck.teachers.live import Live
from limbeck.training.parallel import World
from limbeck.types import Teacher

First = tuple[torch.Size, torch.dtype]


def settled(
    step: nn.Module, full: Set[str], dtype: torch.dtype, teacher: Teacher | None, world: World
) -> set[nn.Parameter]:
    """Casts what is neither trained nor in checkpoints, in place; gives it a live teacher's storage where both are equal.

    full: names that checkpoints hold, which stay in full numbers. Returns the parameters that are held so. Nobody writes
    to them: the teacher reads the same memory. With several ranks the teacher lies in pieces, as the student will.
    """
    still = {n: one for n, one in step.named_parameters() if not one.requires_grad}
    whole = teacher.model if isinstance(teacher, Live) and world.size == 1 else None
    theirs = _by_kind(whole) if whole is not None else {}
    found = {one for name, one in still.items() if name not in full}
    for one in found:
        one.data = one.data.to(dtype)
        for other in theirs.get((one.shape, one.dtype), ()):
            if _equal(one.data, other):
                one.data = other
                break
    return found


def _by_kind(model: nn.Module) -> dict[First, list[Tensor]]:
    found: dict[First, list[Tensor]] = {}
    for one in model.parameters():
        found.setdefault((one.shape, one.dtype), []).append(one.data)
    return found


def _equal(mine: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; a row tells most of those apart that do not."""
    row = mine[:1].to(theirs.device)
    return torch.equal(row, theirs[:1]) and torch.equal(mine.to(theirs.device), theirs)
