"""Total variation: half the mass that teacher and student place differently; bounded, so one bad token weighs little."""

from torch import Tensor

from limbeck.objectives._kept import Tail, over_kept
from limbeck.types import Rows, TopK


def total_variation(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """Half the sum of |teacher - student| at each token, times temperature squared (Wen et al., 2023).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced.
    """
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    return between(log_p, log_q) * (temperature**2 if scale_t2 else 1.0)


def between(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Half the sum of |p - q| over the last axis: (tokens, kept) twice -> (tokens,)."""
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)
