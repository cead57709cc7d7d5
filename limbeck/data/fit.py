"""Documents -> rows that hold whole documents: best fit, longest first. What is left of a row is padding.

A document of n tokens takes n places, since its separator is a label only: no place has to guess another document.
A document longer than a row is cut into full rows and a rest. Every token stands in one place of one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.data.pack import Plane, Stream

Ints = NDArray[np.int64]


def best_fit(sizes: Ints, room: int) -> Ints:
    """The row of each piece: int64 (pieces,), of sizes (pieces,) from 1 to `room`.

    The longest first, each into the row that it leaves least room in, or a new one. All pieces of one size are
    placed together, so that the work is in the number of pieces and of sizes.
    """
    order = np.argsort(-sizes, kind="stable")
    counts = np.bincount(sizes, minlength=room + 1)
    packing = _Packing(len(sizes), room)
    placed = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        pieces = order[placed : placed + counts[size]]
        placed += len(pieces)
        packing.place(pieces, size)
    return packing.found


class _Packing:
    """Rows by the room that they have left, and the row of each piece so far."""

    def __init__(self, pieces: int, room: int) -> None:
        self.found = np.zeros(pieces, dtype=np.int64)
        self._room = room
        self._rows = 0
        self._free: list[list[Ints]] = [[] for _ in range(room + 1)]
        self._open = np.zeros(room + 1, dtype=np.int64)

    def place(self, pieces: Ints, size: int) -> None:
        """Gives each of these pieces, all of one size, its row."""
        for left in (np.flatnonzero(self._open[size:]) + size).tolist():
            if not len(pieces):
                return
            rows = np.concatenate(self._free[left])
            self._free[left], self._open[left] = [], 0
            pieces = self._fill(pieces, size, rows, left)
        if len(pieces):
            new = self._rows + np.arange(-(-len(pieces) // (self._room // size)))
            self._rows += len(new)
            self._fill(pieces, size, new, self._room)

    def _fill(self, pieces: Ints, size: int, rows: Ints, left: int) -> Ints:
        """Fills rows that have the same room left; the pieces that remain.

        A row once begun is the fullest that takes the size, until it takes no more.
        """
        each = left // size
        here = pieces[: each * len(rows)]
        full, last = divmod(len(here), each)
        taken = full + (last > 0)
        self.found[here] = np.repeat(rows[:taken], each)[: len(here)]
        self._keep(rows[:full], left - each * size)
        self._keep(rows[full:taken], left - last * size)
        self._keep(rows[taken:], left)
        return pieces[len(here) :]

    def _keep(self, rows: Ints, left: int) -> None:
        if len(rows):
            self._free[left].append(rows)
            self._open[left] += len(rows)


@dataclass(frozen=True)
class Fitted:
    """Rows of a stream's documents. begins, sizes: int64 (pieces,), of tokens of the planes, row after row.

    starts: int64 (rows + 1,), the pieces of each row. ends: bool (pieces,), whether a document ends with a piece.
    """

    stream: Stream
    length: int
    begins: Ints
    sizes: Ints
    ends: NDArray[np.bool_]
    starts: Ints

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.starts) - 1

    @property
    def fill(self) -> float:
        """The share of places that hold a token of a document."""
        return float(self.sizes.sum() / max(1, self.rows * self.length))

    def row(self, number: int) -> dict[str, Plane]:
        """The planes of a row, each (time,); as pack.row's, but that weights are 0 in the padding only.

        Where the stream has its own, they are these, and 0 for a separator.
        """
        pieces = slice(int(self.starts[number]), int(self.starts[number + 1]))
        begins, sizes = self.begins[pieces], self.sizes[pieces]
        used = int(sizes.sum())
        left = self.length - used
        first = np.cumsum(sizes) - sizes
        inside = np.arange(used) - np.repeat(first, sizes)
        places = np.repeat(begins, sizes) + inside
        ids = np.full(self.length, self.stream.separator, dtype=np.int64)
        ids[:used] = self.stream.ids[places]
        # The token after the last of a document is its separator, and so is padding's.
        follows = np.ones(used, dtype=np.bool_)
        follows[(first + sizes - 1)[self.ends[pieces]]] = False
        known = np.flatnonzero(follows)
        labels = np.full(self.length, self.stream.separator, dtype=np.int64)
        labels[known] = self.stream.ids[places[known] + 1]
        label_bytes = np.zeros(self.length, dtype=np.int64)
        label_bytes[known] = self.stream.byte_lengths[places[known] + 1]
        weights = np.zeros(self.length, dtype=np.float32)
        if self.stream.weights is None:
            weights[:used] = 1
        else:
            weights[known] = self.stream.weights[places[known] + 1]
        numbers = np.repeat(np.arange(len(sizes) + 1), [*sizes, left])
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": np.concatenate([inside, np.arange(left)]),
            "document_ids": numbers,
            "weights": weights,
            "label_bytes": label_bytes,
        }


def fitted(stream: Stream, length: int) -> Fitted:
    """The rows of `length` that hold every document of a stream.

    Of documents with weights of their own, a piece in which nothing counts is in no row.
    """
    starts = np.asarray(stream.starts, dtype=np.int64)
    sizes = np.diff(starts)
    parts = -(-sizes // length)  # a document without tokens has none
    inside = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begins = np.repeat(starts[:-1], parts) + inside * length
    remain = np.repeat(starts[1:], parts) - begins
    taken = np.minimum(remain, length)
    if stream.weights is not None:
        counts = _counts(stream.weights, begins, taken, remain)
        begins, remain, taken = begins[counts], remain[counts], taken[counts]
    row = best_fit(taken, length)
    order = np.argsort(row, kind="stable")
    edges = np.searchsorted(row[order], np.arange((row.max() if len(row) else -1) + 2))
    ends = remain <= length
    return Fitted(stream, length, begins[order], taken[order], ends[order], edges)


def _counts(weights: Plane, begins: Ints, taken: Ints, remain: Ints) -> NDArray[np.bool_]:
    """Whether any label of each piece counts: bool (pieces,). weights: (tokens,); the others: (pieces,)."""
    total = np.concatenate([[0], np.cumsum(np.asarray(weights) != 0)])
    ends = begins + taken + (remain > taken)  # the last label of a cut piece stands in the next one
    found: NDArray[np.bool_] = total[ends] > total[begins + 1]
    return found
