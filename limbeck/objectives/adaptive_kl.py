"""Adaptive KL: forward and reverse KL, weighed at each token by where teacher and student differ."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from limbeck.errors import RecipeError
from limbeck.objectives._kept import Tail, divergence, over_kept
from limbeck.types import Rows, TopK


def adaptive_kl(
    student: Tensor,
    teacher: Tensor | TopK,
    rows: Rows,  # noqa: ARG001
    *,
    head_mass: Annotated[float, Field(gt=0, le=1)] = 0.5,
    temperature: float = 1.0,
    tail: Tail = "bucket",
    scale_t2: bool = True,
) -> Tensor:
    """Forward KL weighed by the gap over the teacher's head, reverse KL by the gap over its tail (Wu et al., 2024).

    student: logits (tokens, vocab). teacher: logits (tokens, vocab) or TopK (tokens, k).
    rows: not used. Returns (tokens,), never reduced. The head is the smallest set of the teacher's likeliest
    tokens whose mass reaches `head_mass`; the bucket of other tokens is always tail. Weights carry no gradient.
    """
    if not 0 < head_mass <= 1:
        raise RecipeError(f"adaptive_kl: head_mass is {head_mass}; it must be above 0, at most 1.")
    log_p, log_q = over_kept(teacher, student, temperature, tail)  # (tokens, kept)
    tokens = teacher.ids.shape[-1] if isinstance(teacher, TopK) else log_p.shape[-1]
    share = _head_share(log_p, log_q.detach(), tokens, head_mass)  # (tokens,)
    value = share * divergence(log_p, log_q) + (1 - share) * divergence(log_q, log_p)
    return value * (temperature**2 if scale_t2 else 1.0)


def _head_share(log_p: Tensor, log_q: Tensor, tokens: int, head_mass: float) -> Tensor:
    """The part of sum |p - q| (tokens, kept) that lies on the head (tokens,); one half where they are equal."""
    p = log_p.exp()
    gaps = (p - log_q.exp()).abs()
    likeliest, order = p[:, :tokens].sort(dim=-1, descending=True, stable=True)
    before = likeliest.cumsum(-1) - likeliest  # mass of the likelier ones
    on_head = torch.where(before < head_mass, gaps.gather(-1, order), 0.0).sum(-1)
    everywhere = gaps.sum(-1)
    apart = everywhere > 0
    return torch.where(apart, on_head / torch.where(apart, everywhere, 1.0), 0.5)
