"""Feature cosine: at a tap the student must point where the teacher points, whatever the length."""

from torch import Tensor

from limbeck.objectives._features import both
from limbeck.types import Feature, Rows

# Of a norm; a vector of zeros then has cosine 0 with everything, and a finite gradient.
_LEAST = 1e-8


def feature_cosine(student: Feature, teacher: Feature, rows: Rows) -> Tensor:  # noqa: ARG001
    """1 - cos(student, teacher) at each token.

    student, teacher: (tokens, width). rows: not used. Returns (tokens,), never reduced, in float32.
    """
    mine, theirs = both(student, teacher)
    straight, wanted = (
        side * side.square().sum(-1, keepdim=True).add(_LEAST**2).rsqrt() for side in (mine, theirs)
    )
    return 1 - (straight * wanted).sum(-1)
