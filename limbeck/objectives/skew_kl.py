"""Skewed forward KL: the student helped by a share of the teacher, so that no token is infinitely wrong."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives._kept import Tail, divergence, mixture, over_kept
from limbeck.types import Rows, TopK


def skew_kl(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """KL(teacher || alpha teacher + (1 - alpha) student) at each token (Ko et al., 2024).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced.
    """
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    return between(log_p, log_q, alpha=alpha) * (temperature**2 if scale_t2 else 1.0)


def between(log_p: Tensor, log_q: Tensor, *, alpha: float) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) over the last axis: (tokens, kept) twice -> (tokens,)."""
    if not 0 < alpha < 1:
        raise RecipeError(f"skew_kl: alpha is {alpha}; it must lie between 0 and 1.")
    return divergence(log_p, mixture(log_p, log_q, alpha))
