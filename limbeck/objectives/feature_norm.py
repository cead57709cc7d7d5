"""Feature norm: the distance between student and teacher at a tap, not squared, so that far tokens pull no harder."""

from torch import Tensor

from limbeck.objectives._features import both
from limbeck.types import Feature, Rows

# Under the root, whose slope at 0 would be infinite times 0; its own root is taken off again, so that equal is 0.
_LEAST = 1e-12


def feature_norm(
    student: Feature,
    teacher: Feature,
    rows: Rows,  # noqa: ARG001
    *,
    normalised: bool = False,
) -> Tensor:
    """The L2 norm over channels of the difference at each token (MOHAWK's second stage; Bick et al., 2024).

    student, teacher: (tokens, width). rows: not used. Returns (tokens,), never reduced, in float32. normalised: both
    sides divided by the root of their mean square first.
    """
    mine, theirs = both(student, teacher, normalised=normalised)
    squared = (mine - theirs).square().sum(-1)
    found: Tensor = squared.add(_LEAST).sqrt() - _LEAST**0.5
    return found
