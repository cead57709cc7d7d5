"""Teacher and student as log-probabilities over the same few outcomes, and sums over those that cannot go NaN.

A dense teacher keeps the whole vocabulary. A TopK teacher keeps its k ids and, with the tail `bucket`, one more
outcome: "any other token", whose mass is the teacher's rest and the student's exact mass outside the ids.
"""

import math
from typing import Literal, NoReturn, get_args

import torch
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.types import Distribution, TopK

Tail = Literal["bucket", "renorm_teacher", "renorm_both", "none"]

# Stands for minus infinity inside logsumexp, whose gradient is NaN where every entry is -inf.
_ABSENT = -1e30
# A rest of exactly 0 is a rounded one: this floor (log of float32's least normal number) keeps reverse KL finite
# and is too small for any other divergence to see.
_LEAST = math.log(torch.finfo(torch.float32).tiny)


def at_least_float32(tensor: Tensor) -> Tensor:
    """bf16 and fp16 become float32, in which all arithmetic of probabilities is done; float64 stays."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def over_kept(
    teacher: Distribution, student: Tensor, temperature: float, tail: Tail = "bucket"
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both sides at a temperature over the outcomes that the teacher keeps.

    teacher: logits (tokens, vocab) or TopK (tokens, k). student: logits (tokens, vocab).
    Returns log_p and log_q, each (tokens, kept): kept is vocab if dense, k + 1 if the tail is `bucket`, else k.
    Nothing flows back to the teacher.
    """
    check_heat(temperature)
    scores = at_least_float32(student)  # (tokens, vocab)
    if temperature != 1:  # a copy of all logits that the usual temperature does not need
        scores = scores / temperature
    if isinstance(teacher, TopK):
        return _sparse(teacher, scores, temperature, tail)
    if not isinstance(teacher, Tensor):
        refuse_kind(teacher)
    if teacher.shape != student.shape:
        refuse_shapes(teacher, student)
    log_p = (at_least_float32(teacher.detach()) / temperature).log_softmax(-1)
    return log_p, scores.log_softmax(-1)


def check_heat(temperature: float) -> None:
    """Refuses a temperature that divides nothing or turns everything round."""
    if not 0 < temperature < math.inf:
        raise RecipeError(f"temperature is {temperature}; it must be a number above 0.")


def check_tail(tail: str) -> None:
    """Refuses another tail than there are."""
    if tail not in get_args(Tail):
        raise RecipeError(f"tail is '{tail}'. There are: {', '.join(get_args(Tail))}.")


def refuse_shapes(teacher: Tensor, student: Tensor) -> NoReturn:
    """Logits of both sides that are not alike."""
    raise RecipeError(
        f"Teacher logits are {tuple(teacher.shape)}, student logits {tuple(student.shape)}; they must be "
        "alike. With one tokenizer, cut both heads to its ids; with two, use the teacher 'translated'."
    )


def refuse_kind(teacher: object) -> NoReturn:
    """What was recorded serves one divergence only; says what to record for others."""
    raise RecipeError(
        f"The teacher gives a {type(teacher).__name__}, which serves forward_kl at temperature 1 only. "
        "Record it as teacher.cached.kind 'topk+rest' for other divergences and temperatures."
    )


def _sparse(teacher: TopK, scores: Tensor, temperature: float, tail: Tail) -> tuple[Tensor, Tensor]:
    """The same for a TopK teacher; scores: student logits over temperature (tokens, vocab)."""
    missing = scores.shape[-1] - teacher.ids.shape[-1]
    kept = scores.gather(-1, teacher.ids)  # (tokens, k)
    if tail == "renorm_both" or missing == 0:
        outside = kept.new_full((kept.shape[0], 1), _ABSENT)  # none, or none that counts
    else:
        outside = scores.scatter(-1, teacher.ids, _ABSENT).logsumexp(-1, keepdim=True)
    return against(teacher, kept, outside, missing, temperature=temperature, tail=tail)


def against(
    teacher: TopK, kept: Tensor, outside: Tensor, missing: int, *, temperature: float, tail: Tail
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both sides over the kept outcomes, from all that these depend on of the student.

    kept: student logits over temperature at the kept ids (tokens, k). outside: the log of the summed exponentials of
    the `missing` others (tokens, 1). Not log1p(-mass on the kept ids), which has no digits left near mass 1.
    Returns log_p and log_q as `over_kept` does.
    """
    logprobs = at_least_float32(teacher.logprobs.detach())  # (tokens, k)
    tempered = logprobs / temperature
    if tail == "renorm_both":
        return tempered.log_softmax(-1), kept.log_softmax(-1)
    outside = outside.clamp(min=_ABSENT)
    inside = kept.masked_fill(kept == -math.inf, _ABSENT).logsumexp(-1, keepdim=True)
    total = inside if missing == 0 else torch.logaddexp(inside, outside)  # (tokens, 1)
    log_q = kept - total
    if tail == "renorm_teacher" or missing == 0:
        return tempered.log_softmax(-1), log_q
    rest = _tempered_rest(teacher.rest, logprobs, temperature, missing)  # (tokens, 1)
    log_p = torch.cat([tempered, rest], -1).log_softmax(-1)  # (tokens, k + 1)
    if tail == "none":
        return log_p[:, :-1], log_q
    check_tail(tail)
    empty = outside < 0.1 * _ABSENT
    beyond = (outside - total).masked_fill(empty, -math.inf)
    least = torch.full_like(rest, _LEAST).masked_fill(empty, -math.inf)
    log_p = torch.cat([log_p[:, :-1], torch.maximum(log_p[:, -1:], least)], -1)
    return log_p, torch.cat([log_q, beyond], -1)


def _tempered_rest(
    rest: Tensor | None, logprobs: Tensor, temperature: float, missing: int
) -> Tensor:
    """Log of the weight of all missing tokens at a temperature (tokens, 1), were the rest spread evenly on them."""
    if rest is None:
        log_rest = (1 - logprobs.exp().sum(-1)).clamp(min=0).log()
    else:
        log_rest = at_least_float32(rest.detach()).clamp(max=0)
    evenly = (1 - 1 / temperature) * math.log(missing)
    return (evenly + log_rest / temperature).unsqueeze(-1)


def divergence(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) over the last axis, (tokens, kept) -> (tokens,): 0 where a is 0, infinite where only b is.

    Written without -inf minus -inf and without 0 times -inf, so neither value nor gradient is NaN where a is 0.
    """
    seen = log_a > -math.inf
    gap = torch.where(seen, log_a, 0.0) - torch.where(seen, log_b, 0.0)
    return (log_a.exp() * gap).sum(-1)


def mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Log of share * a + (1 - share) * b, elementwise, for a share inside (0, 1).

    From log-probabilities, since the probabilities of a large vocabulary underflow.
    """
    neither = (log_a == -math.inf) & (log_b == -math.inf)
    first = log_a.masked_fill(neither, 0.0) + math.log(share)
    second = log_b.masked_fill(neither, 0.0) + math.log1p(-share)
    return torch.logaddexp(first, second).masked_fill(neither, -math.inf)
