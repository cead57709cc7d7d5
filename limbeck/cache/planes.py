"""Planes of a shard: named arrays in one safetensors file, memory-mapped, and the pieces that rows take of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from limbeck import files
from limbeck.cache.codec import Plane
from limbeck.errors import Damaged

_DTYPES = {
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "U64": "<u8",
}


def write(path: Path, planes: dict[str, Plane]) -> None:
    """Writes planes as a plain safetensors file."""
    whole = {name: np.ascontiguousarray(plane) for name, plane in planes.items()}
    with files.written_by(SafetensorError, path):
        save_file(whole, path)


def mapped(path: Path) -> dict[str, Plane]:
    """The planes of a file as views of one memory map.

    Not by safe_open: its slices cost ten times as much as these, and a row takes one of each plane.
    """
    try:
        whole = np.asarray(np.memmap(path, np.uint8, "r"))
        begin = 8 + int.from_bytes(whole[:8].tobytes(), "little")
        header = json.loads(whole[8:begin].tobytes())
        planes = {}
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                flat = whole[begin + first : begin + last].view(_DTYPES[entry["dtype"]])
                planes[name] = flat.reshape(entry["shape"])
        return planes
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise Damaged(f"{path}: no planes can be read from it ({reason}).") from reason


def check_layout(
    found: Mapping[str, Plane], wanted: Mapping[str, tuple[str, tuple[int, ...]]]
) -> None:
    """Refuses other planes than these; wanted: the dtype and shape of each."""
    if set(found) != set(wanted):
        raise Damaged(
            f"planes {', '.join(sorted(found))} found; wanted {', '.join(sorted(wanted))}."
        )
    for name, (dtype, shape) in wanted.items():
        plane = found[name]
        if plane.dtype != np.dtype(dtype) or plane.shape != shape:
            raise Damaged(
                f"plane {name} {plane.shape} of {plane.dtype} found; wanted {shape} of {np.dtype(dtype)}."
            )


def check_counts(name: str, counts: Plane, kept: int) -> None:
    """Refuses counts of another number of ids than are kept."""
    whole = int(counts.sum(dtype=np.int64))
    if whole != kept:
        raise Damaged(f"plane {name} sums to {whole:,}; {kept:,} ids are kept.")


def check_starts(name: str, found: Plane, wanted: Plane) -> None:
    """Refuses places of rows that do not follow from the counts of their tokens."""
    if not np.array_equal(found, wanted):
        raise Damaged(f"plane {name} says that rows begin elsewhere than their counts do.")


def check_most(name: str, values: Plane, most: float) -> None:
    """Refuses values above this, and NaN; -inf is none."""
    # A largest value is NaN where any is: no array of answers is made.
    if values.size and not values.max() <= most:
        raise Damaged(f"plane {name} up to {values.max()} found; wanted {most} at most.")


def check_once(name: str, ids: Plane) -> None:
    """Refuses an id twice in a row of (tokens, k)."""
    ordered = np.sort(ids, -1)
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise Damaged(f"plane {name}: an id stands twice in one token.")


def check_finite(name: str, values: Plane) -> None:
    """Refuses a NaN or an infinity."""
    if values.size and not np.isfinite([values.min(), values.max()]).all():
        raise Damaged(f"plane {name} has a NaN or an infinity.")


@dataclass(frozen=True)
class Piece:
    """What is wanted of one row of a shard.

    begin, end: its recorded tokens in the planes that have a value a token. chosen: bool (end - begin,), which of
    them are wanted; None where all are. draw: which of the kept draws.
    """

    planes: dict[str, Plane]
    row: int
    begin: int
    end: int
    chosen: NDArray[np.bool_] | None
    draw: int

    def take(self, plane: Plane) -> Plane:
        """The wanted values of a plane that has one a token."""
        return self.pick(plane[self.begin : self.end])

    def pick(self, values: Plane, counts: Plane | None = None) -> Plane:
        """Those values of the row's recorded tokens that are wanted; counts: how many each token has, else one."""
        if self.chosen is None:
            return values
        chosen = self.chosen if counts is None else np.repeat(self.chosen, counts)
        return values[chosen]


def joined(pieces: Sequence[Piece], part: Callable[[Piece], Plane]) -> Plane:
    """A part of each piece, one after the other."""
    return np.concatenate([part(piece) for piece in pieces])


def starts(counts: Plane, tokens: Plane) -> NDArray[np.uint64]:
    """Where each row begins among values of which each token has some: (rows + 1,).

    counts: (tokens,). tokens: int64 (rows + 1,), where each row begins among the tokens.
    """
    whole = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
    return whole[tokens].astype("<u8")
