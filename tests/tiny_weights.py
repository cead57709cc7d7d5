"""A small text of which only some tokens count, and a teacher that counts what it is asked for."""

from dataclasses import replace

import tiny
import tiny_cache
import torch
from torch import Tensor

TWENTY = tiny_cache.Text(20)


class Weighted:
    """A text of 20 rows, of which only some tokens count: those of rows x length `weights`."""

    rows, length, identity = TWENTY.rows, TWENTY.length, "weighted"

    def __init__(self, weights):
        self.weights = weights

    def batch(self, positions):
        weights = self.weights[[position % self.rows for position in positions]]
        return replace(TWENTY.batch(positions), weights=weights)


def uneven(seed: int = 0) -> Tensor:
    """Weights of 20 rows, of which some are 0."""
    return (torch.rand(20, TWENTY.length, generator=tiny.generator(seed)) < 0.6).float()


class Counting(tiny_cache.Whole):
    """A teacher that counts the tokens whose distribution it was asked for."""

    tokens = 0

    def signal(self, batch, wanted):
        self.tokens += batch.counted.numel()
        return super().signal(batch, wanted)
