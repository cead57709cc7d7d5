"""Relation Gram: the cosines between units, the matrix that is often called an angle loss."""

import torch
from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.objectives._relations import others
from limbeck.types import Rows, Units

# Of a norm; a unit of zeros has cosine 0 with everything.
_LEAST = 1e-8


def relation_gram(student: Units, teacher: Units, rows: Rows) -> Tensor:  # noqa: ARG001
    """Each unit's mean squared gap of its cosines with the others (similarity-preserving; Tung and Mori, 2019).

    student: (units, width), teacher: (units, its width). rows: not used. Returns (units,), never reduced. Not the same
    after both are moved: it measures directions from the origin, `relation_angle` those from unit to unit.
    """
    if student.shape[0] < 2:
        return student.sum(-1) * 0.0
    mine, theirs = _cosines(student), _cosines(teacher.detach())
    return (mine - theirs.to(mine.dtype)).square().mean(-1)


def _cosines(units: Tensor) -> Tensor:
    """(units, width) -> (units, units - 1), each with each other one."""
    precise = at_least_float32(units)
    straight = precise * (precise.square().sum(-1, keepdim=True) + _LEAST**2).rsqrt()
    return others(torch.matmul(straight, straight.T))
