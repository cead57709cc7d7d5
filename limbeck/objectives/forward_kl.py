"""Forward KL: the student must cover everything the teacher finds likely."""

from torch import Tensor

from limbeck.objectives._kept import Tail, divergence, over_kept
from limbeck.types import Rows, TopK


def forward_kl(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """KL(teacher || student) at each token, times temperature squared (Hinton et al., 2015).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced. With the tail `none` it is no divergence and can be negative.
    """
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    return divergence(log_p, log_q) * (temperature**2 if scale_t2 else 1.0)
