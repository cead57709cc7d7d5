"""Reverse KL: the student must not find likely what the teacher finds unlikely."""

from torch import Tensor

from limbeck.objectives._kept import Tail, divergence, over_kept
from limbeck.types import Rows, TopK


def reverse_kl(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """KL(student || teacher) at each token, times temperature squared (Gu et al., 2024).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced. Infinite where dense teacher logits are -inf and the
    student's are not: cut padded ids from both heads.
    """
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    return between(log_p, log_q) * (temperature**2 if scale_t2 else 1.0)


def between(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(q || p) over the last axis: (tokens, kept) twice -> (tokens,)."""
    return divergence(log_q, log_p)
