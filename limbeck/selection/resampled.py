"""Random-sampling distillation's target: ids drawn with replacement, counted (Anshumann et al., 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.selection._groups import GROUP, Groups, grouped
from limbeck.types import Sampled


def resampled(logits: Tensor, uniforms: Tensor, *, exponent: float = 1.0) -> Sampled:
    """As many ids of each of logits (tokens, vocab) as uniforms (samples, tokens) has rows, drawn from p ** exponent.

    An id drawn c times weighs c / samples * p / g, where g is what it is drawn from, made to sum to 1. The weights
    of a token then sum to 1 on average only, unless exponent is 1: to normalise them would bias every one.
    """
    if exponent <= 0:
        raise LimbeckError(f"exponent {exponent} found; wanted more than 0.")
    found = grouped(logits)
    drawn_from = found if exponent == 1 else grouped(logits.to(found.top.dtype) * exponent)
    points = uniforms.to(logits.device).t()  # (tokens, samples)
    ids = _drawn(drawn_from, points)
    counts, keys = _counted(ids, logits.shape[1])
    rows, kept = keys // logits.shape[1], keys % logits.shape[1]
    weights = counts.to(found.top.dtype) / uniforms.shape[0]
    if exponent != 1:
        weights = weights * (_logprob(found, rows, kept) - _logprob(drawn_from, rows, kept)).exp()
    each = torch.bincount(rows, minlength=logits.shape[0])
    return Sampled.of(kept.cpu(), weights.cpu(), each.cpu(), found.entropy.cpu())


def _drawn(found: Groups, points: Tensor) -> Tensor:
    """The id at each of points (tokens, samples) of the cumulative distribution, int64 (tokens, samples)."""
    whole = found.mass.to(torch.float64).sum(-1, keepdim=True)
    groups, inside = found.sorted_into(found.mass, points * whole)
    rows = torch.arange(points.shape[0], device=points.device).repeat_interleave(points.shape[1])
    lengths = found.logprobs(rows, groups.flatten()).exp()  # (tokens x samples, 64)
    ends = lengths.to(torch.float64).cumsum(-1)
    mass = found.mass.gather(-1, groups).flatten().to(torch.float64)
    reached = (inside.flatten() / mass * ends[:, -1]).unsqueeze(-1)
    last = (ends < ends[:, -1:]).sum(
        -1
    )  # a rounding beyond the end is the last id of any probability
    places = torch.minimum((ends <= reached).sum(-1), last).view_as(groups)
    return groups * GROUP + places


def _counted(ids: Tensor, vocab: int) -> tuple[Tensor, Tensor]:
    """How often each id of a token was drawn, and token x vocab + id of it, rising."""
    tokens = torch.arange(ids.shape[0], device=ids.device).unsqueeze(-1)
    keys, counts = torch.unique(tokens * vocab + ids, return_counts=True)
    return counts, keys


def _logprob(found: Groups, rows: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (pairs,) of single ids."""
    logits = found.logits[rows, ids // GROUP, ids % GROUP].to(found.top.dtype)
    return logits - found.peak[rows] - found.log_total[rows]
