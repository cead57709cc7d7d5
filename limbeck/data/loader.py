"""Rows -> Batches. The order is a pure function of (seed, epoch, position): nothing to save or restore."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.data.fit import Fitted
from limbeck.data.pack import Plane, Stream, row, row_count, stacked
from limbeck.data.planes import Prepared
from limbeck.errors import DataError, RecipeError
from limbeck.types import Batch


def order(rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The permutation of an epoch: int64 (rows,).

    Sorted raw words of a keyed counter generator: NumPy promises that those stay the same from version to
    version, which it does not promise of its own permutation().
    """
    key = hashlib.sha256(f"{seed},{epoch}".encode()).digest()[:16]
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(rows)
    return np.argsort(words, kind="stable")


def positions_for(step: int, rows_per_step: int, rank: int, world: int) -> range:
    """The global positions that one rank takes of a step: ranks divide it evenly, in order."""
    if rows_per_step % world:
        raise RecipeError(
            f"{rows_per_step} rows a step do not divide evenly over {world} ranks. "
            f"Wanted: a multiple of {world}; change the rows per step or the number of processes."
        )
    share = rows_per_step // world
    begin = step * rows_per_step + rank * share
    return range(begin, begin + share)


class PackedSource:
    """A Source over a Stream: position p is row order(seed, epoch)[p % rows] of epoch p // rows.

    fitted: rows of whole documents instead of the stream's; then nothing overlaps. prepared: the folder that the
    stream is of.
    """

    def __init__(
        self,
        stream: Stream,
        length: int,
        *,
        seed: int = 0,
        shuffled: bool = True,
        overlap_one: bool = False,
        identity: str = "",
        fitted: Fitted | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.stream = stream
        self.length = length
        self.identity = identity
        self.seed = seed
        self.shuffled = shuffled
        self.overlap_one = overlap_one
        self.fitted = fitted
        self.prepared = prepared
        self.rows = row_count(stream.length, length, overlap_one=overlap_one)
        if fitted is not None:
            self.rows = fitted.rows
        self._orders: dict[int, NDArray[np.int64]] = {}
        if self.rows == 0:
            raise DataError(
                f"{stream.length:,} tokens (separators included) are fewer than one row of "
                f"{length:,} + 1. Give more text, or a smaller 'length'."
            )

    def row_at(self, position: int) -> int:
        """The number of the row that stands at a global position."""
        epoch, place = divmod(position, self.rows)
        return int(self._order(epoch)[place]) if self.shuffled else place

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these global positions, as one Batch of (len(positions), length)."""
        rows = [self._row(self.row_at(position)) for position in positions]
        epochs = tuple(position // self.rows for position in positions)
        return stacked(rows, self.length, epochs=epochs)

    def _row(self, number: int) -> dict[str, Plane]:
        if self.fitted is not None:
            return self.fitted.row(number)
        stride = self.length if self.overlap_one else self.length + 1
        return row(self.stream, number * stride, self.length)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            # Two, since a step can stand across the end of an epoch.
            while len(self._orders) > 1:
                del self._orders[min(self._orders)]
            self._orders[epoch] = order(self.rows, self.seed, epoch)
        return self._orders[epoch]
