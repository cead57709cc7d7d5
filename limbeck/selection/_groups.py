"""A distribution seen in groups of 64 ids: one pass over the logits, then only a few groups are looked into."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.errors import NonFinite
from limbeck.objectives._compiled import rowwise

GROUP = 64
# 2 to the power of less is 0 in every dtype; a logit of -inf is brought here, since 0 * -inf would be NaN.
_NOTHING = -1100.0
_LOWEST = -1e30


@dataclass(frozen=True)
class Groups:
    """Logits (tokens, groups, 64) and what one pass over them told, in float32 (float64 of float64 logits).

    top: the largest logit of each group, mass: its probability, both (tokens, groups). peak: the largest logit of
    all, log_total: log of the sum of exp(logit - peak), entropy: in nats, all (tokens,).
    """

    logits: Tensor
    top: Tensor
    mass: Tensor
    peak: Tensor
    log_total: Tensor
    entropy: Tensor

    def logprobs(self, rows: Tensor, groups: Tensor) -> Tensor:
        """Log-probabilities (pairs, 64) of the ids in some groups; rows, groups: int64 (pairs,).

        The peak goes first: logit - log-sum-exp at once would lose digits of a small difference of large numbers.
        """
        found = self.opened(rows, groups)
        return found.sub_(self.peak[rows, None]).sub_(self.log_total[rows, None])

    def opened(self, rows: Tensor, groups: Tensor) -> Tensor:
        """Logits (pairs, 64) of the ids in some groups, in the dtype of their maxima."""
        flat = self.logits.view(-1, GROUP)
        return flat.index_select(0, rows * self.top.shape[1] + groups).to(self.top.dtype, copy=True)

    def sorted_into(self, mass: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """For points (tokens, points) on the cumulative mass: the group of each, and how far inside it lies.

        mass: (tokens, groups). Points must be below its sum. In float64, since 768 groups of float32 drift.
        """
        ends = mass.to(torch.float64).cumsum(-1)  # (tokens, groups)
        found = torch.searchsorted(ends, points.contiguous(), right=True).clamp_(
            max=ends.shape[-1] - 1
        )
        begins = ends.gather(-1, found) - mass.to(torch.float64).gather(-1, found)
        return found, (points - begins).clamp_(min=0)


def grouped(logits: Tensor) -> Groups:
    """One pass over logits (tokens, vocab) of any float dtype; an id of logit -inf has no probability."""
    tokens, vocab = logits.shape
    if vocab % GROUP:
        # A copy; who has many logits gives them a width of whole groups, its last ids at -inf.
        logits = nn.functional.pad(logits, (0, GROUP - vocab % GROUP), value=-torch.inf)
    logits = logits.contiguous()
    # Never one row alone, which would not be compiled: a token's bits must not depend on how many are beside it.
    rows = logits if tokens != 1 else logits.repeat(2, 1)
    top, total, weighted = (found[:tokens] for found in _pass(rows))
    peak = top.amax(-1)
    share = (top - peak[:, None]).exp_()  # (tokens, groups)
    full = (total * share).sum(-1)
    if not bool(full.isfinite().all()):
        row = int((~full.isfinite()).nonzero()[0])
        raise NonFinite(
            f"token {row} of {tokens} has a logit that is NaN or infinite, or none above -inf. "
            "The teacher's numbers overflowed: load it in bfloat16 or float32."
        )
    below = (top - peak[:, None]).clamp_(min=_LOWEST)
    mean = ((weighted + total * below) * share).sum(-1) / full
    mass = total.mul_(share).div_(full[:, None])
    log_total = full.log()
    shaped = logits.view(tokens, logits.shape[1] // GROUP, GROUP)
    return Groups(shaped, top, mass, peak, log_total, (log_total - mean).clamp_(min=0))


@rowwise
def _pass(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each group of logits (tokens, vocab): its largest, sum of e = exp(logit - largest), sum of e * log e."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    groups = wide.view(wide.shape[0], wide.shape[1] // GROUP, GROUP)
    top = groups.amax(-1)
    # In powers of 2, which are made faster: of e the pass takes a fifth longer.
    below = (groups - top.clamp(min=_LOWEST).unsqueeze(-1)) * (1 / math.log(2))
    below = below.clamp(min=_NOTHING)
    each = below.exp2()
    return top, each.sum(-1), (each * below).sum(-1) * math.log(2)
