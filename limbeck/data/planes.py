"""The files of a prepared folder: written block by block, put together of parts, mapped without being held in memory.

ids.bin (uint16, or uint32 from 65,536 ids on) and bytes.bin (uint16), each (tokens,);
starts.bin, int64 (documents + 1,). Separators are not in it: packing adds them. Of conversations also weights.bin,
float32 (tokens,).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.data.tokenize import Encoded
from limbeck.errors import Damaged, DataError
from limbeck.files import canonical, read_json, verify

QUARANTINE = "quarantine.jsonl"
COUNTS = "counts.json"
_PLANES = ("ids", "bytes", "starts")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Prepared:
    """Memory-mapped planes of a folder. ids, byte_lengths: (tokens,). starts: (documents + 1,).

    weights: (tokens,), where they are not all 1. fresh: how many tokens were made for it just now, in so many seconds.
    """

    folder: Path
    ids: NDArray[Any]
    byte_lengths: NDArray[Any]
    starts: NDArray[Any]
    about: dict[str, Any]
    weights: NDArray[Any] | None = None
    fresh: int = 0
    seconds: float = 0.0


class Placed(Protocol):
    """Something that came from a place."""

    @property
    def where(self) -> str:
        """'file:line'."""
        ...


class Planes:
    """The files of a folder that is being filled. most: the largest id; weighed: whether tokens have weights."""

    def __init__(self, folder: Path, most: int, stack: ExitStack, *, weighed: bool = False) -> None:
        self.width = np.dtype("<u2") if most < 1 << 16 else np.dtype("<u4")
        self.documents = self.tokens = 0
        self._streams = {
            name: stack.enter_context((folder / f"{name}.bin").open("wb"))
            for name in (*_PLANES, *(["weights"] if weighed else []))
        }
        self._streams["starts"].write(np.zeros(1, "<i8").tobytes())

    def put(
        self, found: Encoded, block: Sequence[Placed], weights: NDArray[np.float32] | None = None
    ) -> None:
        """Writes documents, one after the other; those without a token are left out. weights: (tokens,)."""
        _put(self._streams["ids"], found.ids, self.width, block, found.counts)
        _put(self._streams["bytes"], found.sizes, np.dtype("<u2"), block, found.counts)
        if weights is not None:
            self._streams["weights"].write(weights.astype("<f4").tobytes())
        ends = self.tokens + np.cumsum(found.counts[found.counts > 0])
        self._streams["starts"].write(ends.astype("<i8").tobytes())
        self.tokens += len(found.ids)
        self.documents += len(ends)

    def counts(self) -> dict[str, int]:
        """What was written."""
        width = self.width.itemsize
        return {"documents": self.documents, "tokens": self.tokens, "width": width}


def _put(
    stream: IO[bytes],
    values: NDArray[np.int64],
    width: np.dtype[Any],
    block: Sequence[Placed],
    counts: NDArray[np.int64],
) -> None:
    """Writes numbers in fewer bytes, or refuses: a wrapped id would be another token.

    values: (tokens,) of documents with so many tokens each: counts (documents,).
    """
    most = int(np.iinfo(width).max)
    wrong = np.flatnonzero((values < 0) | (values > most))
    if len(wrong):
        where = block[int(np.searchsorted(np.cumsum(counts), wrong[0], side="right"))].where
        raise DataError(
            f"{where}: holds {values[wrong[0]]:,}, and {width.name} takes 0 to {most:,}. An id "
            "so large is none of the tokenizer's; a token of so many bytes is no text: remove it."
        )
    stream.write(values.astype(width).tobytes())


def write_counts(folder: Path, counts: dict[str, int]) -> None:
    """Says what a folder holds."""
    (folder / COUNTS).write_bytes(canonical(counts))


def counts_of(folder: Path) -> dict[str, int]:
    """What a folder says that it holds."""
    found: dict[str, int] = read_json(folder / COUNTS)
    return found


def set_aside(folder: Path) -> str:
    """What is said of rows that were refused where nothing was kept, and with it their list: how many, and why the first."""
    path = folder / QUARANTINE
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8") as stream:
        first = json.loads(stream.readline())
    told = "{file}:{line}: {reason}".format(**first)
    return f" {counts_of(folder)['quarantined']:,} were set aside, as {told}."


def join(folder: Path, parts: Sequence[Path]) -> None:
    """Fills a folder with what stands in others, one after the other: the bytes that one process would have written."""
    for name in ("ids.bin", "bytes.bin", "weights.bin", QUARANTINE):
        there = [part / name for part in parts if (part / name).is_file()]
        if there:
            with (folder / name).open("wb") as stream:
                for path in there:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, stream, _BLOCK)
    counts = [counts_of(part) for part in parts]
    with (folder / "starts.bin").open("wb") as stream:
        stream.write(np.zeros(1, "<i8").tobytes())
        before = 0
        for part, one in zip(parts, counts, strict=True):
            _shifted(part / "starts.bin", stream, before)
            before += one["tokens"]
    whole = {key: sum(one[key] for one in counts) for key in counts[0]}
    write_counts(folder, whole | {"width": counts[0]["width"]})


def _shifted(path: Path, stream: IO[bytes], before: int) -> None:
    """Writes the starts of a part, less its first, as places in the whole."""
    with path.open("rb") as source:
        source.seek(8)
        while raw := source.read(_BLOCK):
            stream.write((np.frombuffer(raw, "<i8") + before).astype("<i8").tobytes())


def open_prepared(folder: Path, *, fresh: int = 0, seconds: float = 0.0) -> Prepared:
    """Checks every byte of a prepared folder against its manifest, and maps the planes."""
    manifest = verify(folder)
    counts = counts_of(folder)
    width = {2: "<u2", 4: "<u4"}[counts["width"]]
    tokens, documents = counts["tokens"], counts["documents"]
    ids = np.memmap(folder / "ids.bin", width, "r", shape=(tokens,))
    sizes = np.memmap(folder / "bytes.bin", "<u2", "r", shape=(tokens,))
    starts = np.memmap(folder / "starts.bin", "<i8", "r", shape=(documents + 1,))
    if int(starts[-1]) != tokens:
        raise Damaged(f"{folder}: its starts end at {int(starts[-1]):,}, its tokens at {tokens:,}.")
    weights = None
    if "weights.bin" in manifest.files:
        weights = np.memmap(folder / "weights.bin", "<f4", "r", shape=(tokens,))
    about = manifest.about | {"counts": counts}
    return Prepared(folder, ids, sizes, starts, about, weights, fresh, seconds)
