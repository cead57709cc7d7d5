"""The mean row of a frozen student head under the teacher, for a cache of one vector a token."""

from __future__ import annotations

from torch import Tensor

from limbeck.objectives._compiled import rowwise
from limbeck.selection._groups import grouped
from limbeck.types import HeadMean


def head_mean(logits: Tensor, weight: Tensor) -> HeadMean:
    """The sum over ids of p(id) * weight[id] under logits (tokens, vocab or more); weight: (vocab or more, width).

    The product is made in the dtype of the weight and added up in float32 or float64.
    """
    found = grouped(logits)
    shift = (found.peak + found.log_total).unsqueeze(-1)
    width = min(
        logits.shape[1], weight.shape[0]
    )  # beyond stand ids that only fill a width of whole groups
    p = _powers(logits, shift)[:, :width].to(weight.dtype)
    return HeadMean((p @ weight[:width]).to(found.entropy.dtype), found.entropy)


@rowwise
def _powers(logits: Tensor, shift: Tensor) -> Tensor:
    """Probabilities (tokens, vocab) of logits (tokens, vocab); shift: their log-sum-exp (tokens, 1)."""
    return (logits.to(shift.dtype) - shift).exp()
