"""Forward KL: the student must cover everything the teacher finds likely."""

from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives._kept import Tail, at_least_float32, divergence, over_kept
from limbeck.types import HeadMean, Rows, Sampled, TopK


def forward_kl(
    student: Tensor,
    teacher: Tensor | TopK | Sampled | HeadMean,
    rows: Rows,  # noqa: ARG001
    *,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """KL(teacher || student) at each token, times temperature squared (Hinton et al., 2015).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab), TopK (tokens, k), or Sampled (tokens).
    rows: not used. Returns (tokens,), never reduced. With the tail `none` it is no divergence and can be negative.
    Of a Sampled teacher the value is right in expectation, and so is its gradient.
    """
    if isinstance(teacher, Sampled):
        check_temperature(temperature)
        return _sampled(at_least_float32(student).log_softmax(-1), teacher)
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    return between(log_p, log_q) * (temperature**2 if scale_t2 else 1.0)


def between(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last axis: (tokens, kept) twice -> (tokens,)."""
    return divergence(log_p, log_q)


def check_temperature(temperature: float) -> None:
    """Refuses what a teacher that was sampled at temperature 1 cannot tell."""
    if temperature != 1:
        raise RecipeError(
            f"forward_kl: temperature is {temperature}, the teacher was recorded at 1 by a kind that serves no "
            "other. Record teacher.cached.kind 'topk+rest', or leave the temperature at 1."
        )


def _sampled(log_q: Tensor, teacher: Sampled) -> Tensor:
    """Cross-entropy with the sampled weights, less the teacher's own entropy: (tokens,)."""
    at = log_q[teacher.tokens, teacher.ids]  # (kept,)
    known = log_q.new_zeros(log_q.shape[0])
    value = known.index_add(0, teacher.tokens, -teacher.weights.to(log_q.dtype) * at)
    return value if teacher.entropy is None else value - teacher.entropy.to(log_q.dtype)
