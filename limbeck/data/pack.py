"""Documents' ids -> rows of equal length. Labels are shifted here and nowhere else.

The stream is each document's tokens and then a separator. It is never written out: a row is found from
the starts of the documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.types import Batch

Plane = NDArray[Any]
_NAMES = ("input_ids", "labels", "position_ids", "document_ids", "weights", "label_bytes")


@dataclass(frozen=True)
class Stream:
    """Tokens of documents, with a separator after each that belongs to the document it ends.

    ids, byte_lengths: (tokens,), without separators. starts: int64 (documents + 1,), the last is tokens.
    weights: (tokens,), what each token counts as a label, where that is not 1 for all; a separator then counts
    nothing, since such documents hold their own ends.
    """

    ids: Plane
    byte_lengths: Plane
    starts: Plane
    separator: int
    weights: Plane | None = None
    # Where each document begins in the stream: every document before it has added one separator.
    begins: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        begins = np.asarray(self.starts, dtype=np.int64) + np.arange(len(self.starts))
        object.__setattr__(self, "begins", begins)

    @property
    def length(self) -> int:
        """Tokens and separators."""
        return int(self.begins[-1])


def row_count(stream_length: int, length: int, *, overlap_one: bool = False) -> int:
    """Rows of `length` in a stream: each takes length + 1 tokens, of which overlap_one shares one."""
    if overlap_one:
        return max(0, (stream_length - 1) // length)
    return stream_length // (length + 1)


def address(input_ids: Plane, position_ids: Plane) -> str:
    """The content hash of a row: what a model sees of it. int64 (time,), (time,) -> 32 hex digits."""
    seen = hashlib.sha256(np.ascontiguousarray(input_ids, dtype="<i8").tobytes())
    seen.update(np.ascontiguousarray(position_ids, dtype="<i8").tobytes())
    return seen.hexdigest()[:32]


def row(stream: Stream, begin: int, length: int) -> dict[str, Plane]:
    """The row whose first token stands at `begin` of the stream; each plane is (time,).

    position_ids restart at each document and at the row's start; document_ids count from 0 in the row.
    weights are 0 where a separator would have to guess the next document, and elsewhere 1 or the stream's own.
    """
    places = np.arange(begin, begin + length + 1)  # (time + 1,)
    documents = np.searchsorted(stream.begins, places, side="right") - 1
    separates = places + 1 == stream.begins[documents + 1]
    # Between a place in the stream and one in the planes stand the separators of the documents before.
    first = begin - int(documents[0])
    real = slice(first, first + int((~separates).sum()))
    tokens = np.full(length + 1, stream.separator, dtype=np.int64)
    tokens[~separates] = stream.ids[real]
    sizes = np.zeros(length + 1, dtype=np.int64)
    sizes[~separates] = stream.byte_lengths[real]
    counts = documents[:-1] == documents[1:]
    if stream.weights is not None:
        own = np.zeros(length + 1, dtype=np.float32)
        own[~separates] = stream.weights[real]
        counts = counts * own[1:]
    inside = places - np.maximum(stream.begins[documents], begin)
    return {
        "input_ids": tokens[:-1],
        "labels": tokens[1:],
        "position_ids": inside[:-1],
        "document_ids": (documents - documents[0])[:-1],
        "weights": counts.astype(np.float32),
        "label_bytes": sizes[1:],
    }


def batch(stream: Stream, rows: Sequence[int], length: int, *, overlap_one: bool = False) -> Batch:
    """The rows of these numbers as one Batch, each plane (len(rows), length)."""
    stride = length if overlap_one else length + 1
    return stacked([row(stream, number * stride, length) for number in rows], length)


def stacked(
    rows: Sequence[dict[str, Plane]], length: int, *, epochs: tuple[int, ...] = ()
) -> Batch:
    """Rows of planes (time,) as one Batch, each plane (len(rows), length)."""
    planes = {
        name: torch.from_numpy(np.stack([one[name] for one in rows]))
        if rows
        else torch.zeros(0, length)
        for name in _NAMES
    }
    addresses = tuple(address(one["input_ids"], one["position_ids"]) for one in rows)
    return Batch(**planes, addresses=addresses, epochs=epochs)  # type: ignore[arg-type]
