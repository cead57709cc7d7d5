"""A share of each row's tokens: those with the smallest numbers, so that a smaller share lies inside a larger one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.selection.uniforms import uniforms

# ceil(0.1 * 30) would be 4 of 3.0000000000000004.
_DIGITS = 9


def size(share: float, count: int, most: int | None = None) -> int:
    """How many of `count` tokens a share is: at least one where there is one, never more than `most`."""
    wanted = max(1, math.ceil(round(share * count, _DIGITS)))
    return min(count, wanted, count if most is None else most)


def keyed(address: str, *place: object) -> str:
    """A key under which a row draws its numbers at a place, such as a seed and a step: 32 hexadecimal digits."""
    text = "/".join(map(str, (address, *place)))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def fewest(keys: Sequence[str], there: Tensor, sizes: Sequence[int]) -> Tensor:
    """Of the tokens of each row that are there, so many with the smallest numbers under its key: bool (rows, length).

    there: bool (rows, length), on the CPU. keys: one a row, 32 hexadecimal digits.
    """
    rows, length = there.shape
    numbers = uniforms(keys, length, 1).view(rows, length)
    # What is not there comes last; numbers of 53 bits have no ties to break.
    order = torch.where(there, numbers, 2.0).argsort(-1).argsort(-1)
    return there & (order < torch.tensor(list(sizes))[:, None])
