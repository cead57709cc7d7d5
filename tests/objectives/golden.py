"""Numbers and cases that the tests of several objectives share (computed apart, in float64)."""

from collections.abc import Callable

import tiny
import torch
from torch import Tensor

from limbeck.objectives.adaptive_kl import adaptive_kl
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.objectives.skew_kl import skew_kl
from limbeck.objectives.skew_reverse_kl import skew_reverse_kl
from limbeck.objectives.total_variation import total_variation
from limbeck.types import TopK

DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    objective.__name__: objective
    for objective in (
        adaptive_kl,
        forward_kl,
        jensen_shannon,
        reverse_kl,
        skew_kl,
        skew_reverse_kl,
        total_variation,
    )
}
TAILS = ("bucket", "renorm_teacher", "renorm_both", "none")

TEACHER = torch.tensor([[3.0, 1.0, 0.2, -1.0]], dtype=torch.float64)
STUDENT = torch.tensor([[1.0, 2.0, 0.0, 0.5]], dtype=torch.float64)

P = torch.tensor([[0.5, 0.25, 0.15, 0.1]], dtype=torch.float64)
Q = torch.tensor([[0.2, 0.2, 0.3, 0.3]], dtype=torch.float64)


def value(objective: Callable[..., Tensor], teacher, student, **options) -> float:
    """The objective's value at its only token."""
    return objective(student, teacher, tiny.rows(1), **options).item()


def topk(logits: Tensor, k: int, *, rest: bool = True) -> TopK:
    """The k likeliest tokens of dense logits (tokens, vocab), with their rest or with rest left out."""
    logprobs = logits.log_softmax(-1)
    kept, ids = logprobs.topk(k, -1)
    outside = logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return TopK(ids, kept, outside if rest else None)
