"""Which tokens of a batch a term looks at: a share of each row's, the same whoever asks, in whatever batch or rank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.selection.share import fewest, size
from limbeck.types import Batch


@dataclass(frozen=True)
class Share:
    """Some of the tokens that count, row after row.

    places: int64 (chosen,), which of batch.counted. sizes: int64 (rows,), how many of each row, on the CPU. whole:
    float32 (rows,), the weight of all tokens of each row that count. factors: float32 (chosen,), what a chosen token
    stands for besides itself: tokens of its row that count over those that were chosen.
    """

    places: Tensor
    sizes: Tensor
    whole: Tensor
    factors: Tensor


def every(batch: Batch) -> Share:
    """All tokens that count."""
    counts = batch.weights != 0
    whole = batch.weights.sum(-1)
    places = torch.arange(batch.counted.numel(), device=batch.counted.device)
    return Share(places, counts.sum(-1).cpu(), whole, torch.ones_like(places, dtype=torch.float32))


def chosen(
    batch: Batch,
    keys: tuple[str, ...],
    share: float,
    *,
    most: int | None = None,
    held: Tensor | None = None,
) -> Share:
    """The tokens of each row that have its smallest numbers, drawn under its key.

    keys: one a row, 32 hexadecimal digits. most: of a row. held: int64 (held,), which of the tokens that count there
    is anything to look at; None for all. A share of 1 takes them all, as they stand.
    """
    counts = batch.on_cpu.weights != 0
    there = counts.clone()
    if held is not None:
        there = torch.zeros_like(counts)
        there.view(-1)[batch.on_cpu.counted[held.cpu()]] = True
    totals, held_counts = counts.sum(-1), there.sum(-1)
    pairs = zip(totals.tolist(), held_counts.tolist(), strict=True)
    each = [min(size(share, n, most), m) if n else 0 for n, m in pairs]
    sizes, taken = torch.tensor(each), fewest(keys, there, each)
    factors = (totals / sizes.clamp(min=1)).repeat_interleave(sizes)
    device = batch.weights.device
    places = taken.view(-1)[counts.view(-1)].nonzero().squeeze(-1)
    return Share(
        places.to(device),
        sizes,
        batch.weights.sum(-1),
        factors.to(device, torch.float32),
    )
