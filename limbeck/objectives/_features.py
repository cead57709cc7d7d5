"""What the objectives at taps share: both sides in float32, of one width."""

import torch
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives._kept import at_least_float32

# Of a mean of squares that may be 0; far below the squares of any model's stream.
_LEAST = 1e-12


def both(student: Tensor, teacher: Tensor, *, normalised: bool = False) -> tuple[Tensor, Tensor]:
    """Both sides (tokens, width) in float32 or float64.

    A gradient goes to whichever side has one: a teacher's has none (training/links.py), unless the student's own
    projection made it. normalised: each token's vector is divided by the root of its mean square, so that a few huge channels of the
    residual stream do not count alone. Raises RecipeError where the widths differ.
    """
    if student.shape != teacher.shape:
        raise RecipeError(
            f"features {tuple(teacher.shape)} of the teacher beside {tuple(student.shape)} of the student; wanted the "
            "same width. Give the term a 'projector: linear', or taps of one width."
        )
    precise = torch.promote_types(at_least_float32(student).dtype, at_least_float32(teacher).dtype)
    mine, theirs = student.to(precise), teacher.to(precise)
    return (root_mean_square(mine), root_mean_square(theirs)) if normalised else (mine, theirs)


def root_mean_square(vectors: Tensor) -> Tensor:
    """Each vector divided by the root of its mean square: (tokens, width); a vector of zeros stays one."""
    return vectors * vectors.square().mean(-1, keepdim=True).add(_LEAST).rsqrt()
