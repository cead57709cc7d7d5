"""Threshold sampling: likely ids exactly, the others by a draw that is right on average."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.selection._groups import GROUP, Groups, grouped
from limbeck.types import Drawn

# An id this little below the threshold is exact too, which costs nothing: rounding can then put no two teeth of the
# comb on one id.
MARGIN = 1e-6


def threshold(logits: Tensor, uniforms: Tensor, *, threshold: float = 0.02) -> Drawn:
    """What is kept of logits (tokens, vocab): each id of p >= threshold, and of the others a systematic sample.

    uniforms: float64 (draws, tokens), in [0, 1). The ids below the threshold lie in order on a line, each as long as
    its probability; a comb with teeth a threshold apart, shifted by the uniform, picks those it meets. So an id is
    met with probability p / threshold and never twice, and stands for a weight of the threshold: p on average.
    """
    if not 0 < threshold <= 1:
        raise LimbeckError(
            f"threshold {threshold} found; wanted more than 0 and at most 1. Correct teacher.cached.threshold."
        )
    found = grouped(logits)
    heads, head_ids, head_logprobs = _heads(found, threshold)
    tails, tail_ids = _tails(found, uniforms.to(logits.device), threshold)
    return Drawn(heads, head_ids, head_logprobs, tails, tail_ids, found.entropy)


def _heads(found: Groups, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """How many ids of each token are likely (tokens,), which, and their logprobs. Their mass leaves `found.mass`."""
    limit = math.log(threshold * (1 - MARGIN))
    least = found.peak + found.log_total + (limit - MARGIN)
    rows, groups = (found.top >= least[:, None]).nonzero(as_tuple=True)  # (opened,)
    logprobs = found.logprobs(rows, groups)  # (opened, 64)
    likely = logprobs >= limit
    # Summed over what is left, not 1 - what is kept: of a peaked distribution nothing but rounding would remain.
    left = logprobs.exp().masked_fill_(likely, 0.0).sum(-1)
    found.mass.index_put_((rows, groups), left)
    pairs, inside = likely.nonzero(as_tuple=True)
    counts = torch.bincount(rows[pairs], minlength=found.peak.shape[0])
    return counts, groups[pairs] * GROUP + inside, logprobs[pairs, inside]


def _tails(found: Groups, uniforms: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """How many ids each draw takes of each token (draws, tokens), and which, draw after draw."""
    draws, tokens = uniforms.shape
    whole = found.mass.to(torch.float64).sum(-1)  # (tokens,)
    most = int((whole.max() / threshold).ceil()) + 1 if tokens else 0
    comb = torch.arange(most, device=uniforms.device)
    teeth = (uniforms.unsqueeze(-1) + comb) * threshold  # (draws, tokens, most)
    meets = teeth < whole.unsqueeze(-1)
    by_token = teeth.transpose(0, 1).flatten(1)  # (tokens, draws x most)
    groups, inside = found.sorted_into(found.mass, by_token)
    shape = (tokens, draws, most)
    groups = groups.view(shape).transpose(0, 1)[meets]  # (drawn,)
    inside = inside.view(shape).transpose(0, 1)[meets]
    rows = meets.nonzero(as_tuple=True)[1]
    limit = math.log(threshold * (1 - MARGIN))
    places = _met(found, rows, groups, inside, limit)
    return meets.sum(-1), groups * GROUP + places


def _met(found: Groups, rows: Tensor, groups: Tensor, inside: Tensor, limit: float) -> Tensor:
    """The place in its group, 0 to 63, of the id that each tooth meets. rows, groups, inside: (drawn,)."""
    logprobs = found.logprobs(rows, groups)
    lengths = logprobs.exp().masked_fill_(logprobs >= limit, 0.0)  # (drawn, 64)
    ends = lengths.to(torch.float64).cumsum(-1)
    # The pass and this sum differ in their last digits; both must end at the same place.
    reached = inside / found.mass[rows, groups].to(torch.float64) * ends[:, -1]
    last = (ends < ends[:, -1:]).sum(-1)  # a rounding beyond the end is the last id of any length
    return torch.minimum((ends <= reached.unsqueeze(-1)).sum(-1), last)
