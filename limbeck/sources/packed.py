"""Rows that are ready made, such as those beside a cache that 'limbeck convert' brought from another tool."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.data.loader import order
from limbeck.data.rows import Rows, open_rows
from limbeck.data.tokenize import tokenizer_fingerprint
from limbeck.errors import DataError
from limbeck.types import Batch


class Packed:
    """A Source over rows: position p is row order(seed, epoch)[p % rows] of epoch p // rows."""

    def __init__(self, found: Rows, *, seed: int = 0, shuffled: bool = True) -> None:
        self.rows = len(found)
        self.length = found.length
        self.identity = found.identity
        self._found = found
        self._seed = seed
        self._shuffled = shuffled

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these global positions, as one Batch of (len(positions), length)."""
        places = [divmod(position, self.rows) for position in positions]
        orders = {
            epoch: order(self.rows, self._seed, epoch) if self._shuffled else range(self.rows)
            for epoch in {epoch for epoch, _ in places}
        }
        rows = [int(orders[epoch][place]) for epoch, place in places]
        return self._found.batch(rows, tuple(epoch for epoch, _ in places))


def packed(tokenizer: Any, *, path: str, seed: int = 0, shuffled: bool = True) -> Packed:
    """Batches of (batch, length) from the folder of rows at `path`, which another tokenizer is refused."""
    if not Path(path).is_dir():
        raise DataError(
            f"packed: there is no folder {path}. 'limbeck convert' writes one, beside the cache."
        )
    found = open_rows(Path(path))
    mine, theirs = tokenizer_fingerprint(tokenizer), found.about.get("tokenizer")
    if mine != theirs:
        raise DataError(
            f"{path}: its rows are of the tokenizer {theirs}, the recipe's is {mine}: their ids mean other "
            "words. Name the tokenizer that they were made with."
        )
    if not len(found):
        raise DataError(f"{path} holds no row.")
    return Packed(found, seed=seed, shuffled=shuffled)
