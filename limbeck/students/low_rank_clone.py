"""A narrower model whose every matrix is a trained low-rank projection of the teacher's; merged at export (LRC)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from transformers import PreTrainedModel

from limbeck.errors import RecipeError
from limbeck.models import beginnings, narrowing
from limbeck.types import Materials

LOOKED_AT = 8
"""Rows of text that the start `pca` looks at."""


def low_rank_clone(
    materials: Materials,
    *,
    width: Annotated[int, Field(gt=0)],
    attention: Literal["all", "shared"] = "all",
    mlp: Literal["all", "shared"] = "all",
    tie_projections: bool = True,
    start: Literal["gaussian", "orthogonal", "pca"] = "gaussian",
    rms_norm_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None,
    unlock: Literal["none", "mlp", "all"] = "none",
) -> PreTrainedModel:
    """The teacher's own layers with a residual stream of `width` (Hao et al., 2025: Low-Rank Clone).

    attention, mlp: a projection for each matrix, or one for all that read the same norm. tie_projections: one for table
    and head. rms_norm_eps: null is the teacher's. unlock: which matrices get a dense part of their own, from zero on.
    """
    if materials.config is None:
        raise RecipeError(
            "student.low_rank_clone: there is no teacher to clone; give the teacher's 'model'."
        )
    narrowing.check(materials.config, width)
    teacher = materials.teacher()
    shape = narrowing.Shape(
        width, attention == "shared", mlp == "shared", tie_projections, rms_norm_eps, unlock
    )
    student = narrowing.narrow(teacher, shape)
    if next(student.parameters()).is_meta:
        return student
    if start == "gaussian":
        beginnings.gaussian(student)
    elif start == "orthogonal":
        beginnings.rotated(student, teacher, *beginnings.random_basis(teacher, width))
    else:
        text = materials.text
        if text is None:
            raise RecipeError("student.low_rank_clone.start: 'pca' needs a stage with text.")
        batch = text.batch(range(min(LOOKED_AT, text.rows)))
        beginnings.rotated(student, teacher, *beginnings.principal_basis(teacher, width, batch))
    return student


def finish(student: PreTrainedModel) -> PreTrainedModel:
    """The plain model with every projection multiplied into the matrix that it stood beside, in float32."""
    return narrowing.merged(student)
