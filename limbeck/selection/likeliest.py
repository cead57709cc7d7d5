"""The likeliest ids of a distribution and the mass of the others, without sorting a vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.selection._groups import GROUP, Groups, grouped
from limbeck.types import TopK


def likeliest(logits: Tensor, k: int) -> TopK:
    """The k likeliest of logits (tokens, vocab): ids, logprobs (tokens, k), rest (tokens,), in float32 or float64.

    Raises LimbeckError where a token has fewer ids with a probability.

    Exact: only the k groups with the largest maxima are looked into. Were one of the k likeliest in another group,
    k groups would each hold an id at least as likely: those ids have the same k logits then, ties included.
    """
    found = grouped(logits)
    tokens, groups = found.top.shape
    looked = min(k, groups)
    chosen = found.top.topk(looked, sorted=False).indices  # (tokens, looked)
    rows = torch.arange(tokens, device=logits.device).repeat_interleave(looked)
    candidates = found.opened(rows, chosen.flatten()).view(tokens, looked * GROUP)
    kept, places = candidates.topk(k)
    if bool(kept.isneginf().any()):
        row = int(kept.isneginf().any(-1).nonzero()[0])
        raise LimbeckError(
            f"token {row} of {tokens} has {int(kept[row].isfinite().sum())} ids with a probability; wanted {k}. Choose a "
            "smaller teacher.cached.k."
        )
    ids = chosen.gather(-1, places // GROUP) * GROUP + places % GROUP
    logprobs = kept - found.peak[:, None] - found.log_total[:, None]
    return TopK(ids, logprobs, _rest(found, chosen, candidates, places))


def _rest(found: Groups, chosen: Tensor, candidates: Tensor, places: Tensor) -> Tensor:
    """Log of the mass of the ids that are not kept (tokens,), summed: 1 - sum(kept) would lose it to rounding."""
    left = candidates.scatter_(-1, places, -torch.inf).sub_(found.peak[:, None]).exp_().sum(-1)
    outside = found.mass.scatter_(-1, chosen, 0.0).sum(-1)
    return (left / found.log_total.exp() + outside).log()
