"""Feature MSE: at a tap the student must have what the teacher has there, channel by channel."""

from typing import Annotated

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from limbeck.errors import RecipeError
from limbeck.objectives._features import both
from limbeck.types import Feature, Rows


def feature_mse(
    student: Feature,
    teacher: Feature,
    rows: Rows,  # noqa: ARG001
    *,
    normalised: bool = False,
    smooth_l1: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None,
) -> Tensor:
    """The mean over channels of the squared difference at each token (Romero et al., 2015).

    student, teacher: (tokens, width). rows: not used. Returns (tokens,), never reduced, in float32. normalised: both
    sides divided by the root of their mean square first. smooth_l1: the difference from which on a channel counts
    linearly; below it counts half its square, divided by this number.
    """
    mine, theirs = both(student, teacher, normalised=normalised)
    if smooth_l1 is None:
        return (mine - theirs).square().mean(-1)
    if not smooth_l1 > 0:
        raise RecipeError(
            f"feature_mse: smooth_l1 {smooth_l1} found; wanted a difference above 0, or null for plain squares."
        )
    return functional.smooth_l1_loss(mine, theirs, beta=smooth_l1, reduction="none").mean(-1)
