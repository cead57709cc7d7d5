"""Relation distance: units that are far apart in the teacher must be far apart in the student, in any width."""

from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.objectives._relations import distances, huber
from limbeck.types import Rows, Units


def relation_distance(student: Units, teacher: Units, rows: Rows) -> Tensor:  # noqa: ARG001
    """Each unit's mean Huber gap of its distances to the others, over the mean distance (RKD; Park et al., 2019).

    student: (units, width), teacher: (units, its width). rows: not used. Returns (units,), never reduced: their mean is
    the mean over distinct pairs. Fewer than two units have no distance: 0.
    """
    if student.shape[0] < 2:
        return student.sum(-1) * 0.0
    mine = distances(student)
    gaps = huber(mine - distances(teacher.detach())).mean(-1)
    return gaps.to(at_least_float32(student).dtype)
