"""Generalised Jensen-Shannon divergence: from forward KL (beta 0) to reverse KL (beta 1)."""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives._kept import Tail, divergence, mixture, over_kept
from limbeck.types import Rows, TopK


def jensen_shannon(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
    normalize: bool = False,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """Both sides' KL to their mixture, beta KL(teacher || M) + (1 - beta) KL(student || M) (Agarwal et al., 2024).

    M = beta teacher + (1 - beta) student.

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced. The formula goes to 0 as beta goes to 0 or 1, where by
    convention forward and reverse KL stand; `normalize` divides by beta (1 - beta), which makes that continuous.
    """
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    value = between(log_p, log_q, beta=beta, normalize=normalize)
    return value * (temperature**2 if scale_t2 else 1.0)


def between(log_p: Tensor, log_q: Tensor, *, beta: float, normalize: bool) -> Tensor:
    """The divergence over the last axis: (tokens, kept) twice -> (tokens,)."""
    if not 0 <= beta <= 1:
        raise RecipeError(f"jensen_shannon: beta is {beta}; it must be from 0 to 1.")
    if beta == 0:
        return divergence(log_p, log_q)
    if beta == 1:
        return divergence(log_q, log_p)
    log_m = mixture(log_p, log_q, beta)
    value = beta * divergence(log_p, log_m) + (1 - beta) * divergence(log_q, log_m)
    return value / (beta * (1 - beta)) if normalize else value
