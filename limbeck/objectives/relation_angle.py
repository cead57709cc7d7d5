"""Relation angle: three units must make the same triangle in the student as in the teacher, in any width."""

from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.objectives._relations import angle_gaps
from limbeck.types import Rows, Units


def relation_angle(student: Units, teacher: Units, rows: Rows) -> Tensor:  # noqa: ARG001
    """At each unit, the mean Huber gap of the cosines between every two others (RKD; Park et al., 2019).

    student: (units, width), teacher: (units, its width). rows: not used. Returns (units,), never reduced: their mean is
    the mean over distinct ordered triplets. Fewer than three units have no angle: 0.
    """
    if student.shape[0] < 3:
        return student.sum(-1) * 0.0
    return angle_gaps(student, teacher.detach()).to(at_least_float32(student).dtype)
