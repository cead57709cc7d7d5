"""Uniform numbers that belong to a token: the same whoever asks, in whatever batch, order or rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import LimbeckError


def uniforms(addresses: Sequence[str], length: int, draws: int) -> Tensor:
    """Numbers in [0, 1), float64 (draws, rows x length), a pure function of (address, position, draw).

    Philox4x64-10 (Salmon et al., 2011): its key is the row's address, a number of 128 bits; the counter's second
    word is the draw; of the words that it then gives, number p belongs to position p and its first 53 bits count.
    """
    found = np.empty((draws, len(addresses), length), dtype=np.uint64)
    for row, address in enumerate(addresses):
        key = _key(address)
        for draw in range(draws):
            stream = np.random.Philox(key=key, counter=[0, draw, 0, 0])
            found[draw, row] = stream.random_raw(length)
    numbers = (found >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return torch.from_numpy(numbers.reshape(draws, len(addresses) * length))


def _key(address: str) -> int:
    try:
        key = int(address, 16)
    except ValueError:
        key = -1
    if not 0 <= key < 1 << 128:
        raise LimbeckError(
            f"the address {address!r} is no key of a random generator; wanted 32 hexadecimal digits, "
            "as data/pack.py makes them of a row's content."
        )
    return key
