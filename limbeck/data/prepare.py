"""Documents -> a committed folder of ids that rows are read from without holding them in memory.

ids.bin (uint16, or uint32 from 65,536 ids on) and bytes.bin (uint16), each (tokens,);
starts.bin, int64 (documents + 1,). Separators are not in it: packing adds them. Of conversations also weights.bin,
float32 (tokens,).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from limbeck.data.documents import Document, sieved
from limbeck.data.inputs import Inputs, inputs
from limbeck.data.sieve import Sieve
from limbeck.data.tokenize import Encoded, encoder, largest_id, tokenizer_fingerprint
from limbeck.errors import Damaged, DataError, LimbeckError
from limbeck.files import canonical, committed, digest, read_json, sweep_abandoned, verify
from limbeck.progress import progress

FORMAT = 2
QUARANTINE = "quarantine.jsonl"
# Enough text for the tokenizer to use every core, little enough to hold many times over.
BLOCK_CHARACTERS = 4_000_000
_PLANES = ("ids", "bytes", "starts")

Read = TypeVar("Read")


@dataclass(frozen=True)
class Reading:
    """How text is read; part of the key, since each changes what comes out."""

    field: str = "text"
    split: str = "train"
    split_at: str | None = None
    hostile: str = "stop"
    max_documents: int | None = None


@dataclass(frozen=True)
class Prepared:
    """Memory-mapped planes of a folder. ids, byte_lengths: (tokens,). starts: (documents + 1,).

    weights: (tokens,), where they are not all 1.
    """

    folder: Path
    ids: NDArray[Any]
    byte_lengths: NDArray[Any]
    starts: NDArray[Any]
    about: dict[str, Any]
    weights: NDArray[Any] | None = None


class Placed(Protocol):
    """Something that came from a place."""

    @property
    def where(self) -> str:
        """'file:line'."""
        ...


def prepare(
    tokenizer: Any, path: str | Path, into: str | Path, *, reading: Reading | None = None
) -> Prepared:
    """Finds, or makes, `into`/<key>: the key is the text's digests, the tokenizer and the options."""
    reading = reading or Reading()
    found = inputs(path, reading.split)
    key = {
        "format": FORMAT,
        "text": found.identity(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "reading": asdict(reading) | ({} if found.hub or found.saved else {"split": None}),
    }
    return made(into, key, lambda folder: _fill(folder, tokenizer, found, str(path), reading))


def made(into: str | Path, key: dict[str, Any], fill: Callable[[Path], None]) -> Prepared:
    """`into`/<digest of the key>, filled if it is not there."""
    folder = Path(into) / digest(canonical(key))[:32]
    if not folder.exists():
        sweep_abandoned(folder.parent)
        try:
            with committed(folder, key) as partial:
                fill(partial)
        except (OSError, LimbeckError):
            # Another process made the same folder meanwhile: what it holds is the same.
            if not folder.exists():
                raise
    return open_prepared(folder)


def _fill(folder: Path, tokenizer: Any, found: Inputs, path: str, reading: Reading) -> None:
    """Reads, encodes and writes everything that a prepared folder holds."""
    sieve = Sieve(folder / QUARANTINE if reading.hostile == "quarantine" else None)
    documents = sieved(
        found, sieve, field=reading.field, split=reading.split, split_at=reading.split_at
    )
    with progress(f"prepare {path}", found.size) as bar:
        some = itertools.islice(documents, reading.max_documents)
        counts = _write(folder, tokenizer, watched(some, sieve, bar.advance), path, sieve)
    sieve.close()
    counts |= {"kept": sieve.kept, "quarantined": sieve.quarantined}
    (folder / "counts.json").write_bytes(canonical(counts))


def watched(
    documents: Iterator[Read], sieve: Sieve, advance: Callable[[int], None]
) -> Iterator[Read]:
    """The same documents; says of each how many bytes were read for it."""
    before = 0
    for document in documents:
        yield document
        advance(max(0, sieve.read_bytes - before))
        before = max(before, sieve.read_bytes)


def blocks(items: Iterable[Read], size: Callable[[Read], int]) -> Iterator[list[Read]]:
    """What is read, in lists of so many characters, so that memory is bounded by one block or one document."""
    held, characters = list[Read](), 0
    for item in items:
        held.append(item)
        characters += size(item)
        if characters >= BLOCK_CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _write(
    folder: Path, tokenizer: Any, documents: Iterator[Document], path: str, sieve: Sieve
) -> dict[str, int]:
    """Writes the planes block by block; documents without a token are counted and left out."""
    encode, empty = encoder(tokenizer), 0
    with ExitStack() as stack:
        planes = Planes(folder, largest_id(tokenizer), stack)
        for block in blocks(documents, lambda document: len(document.text)):
            found = encode([document.text for document in block])
            planes.put(found, block)
            empty += len(block) - int((found.counts > 0).sum())
    if not planes.documents:
        raise DataError(
            f"{path}: no document with any token in it ({empty:,} empty ones).{sieve.told()}"
        )
    return planes.counts() | {"empty": empty}


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


def open_prepared(folder: Path) -> Prepared:
    """Checks every byte of a prepared folder against its manifest, and maps the planes."""
    manifest = verify(folder)
    counts: dict[str, int] = read_json(folder / "counts.json")
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
    return Prepared(folder, ids, sizes, starts, manifest.about | {"counts": counts}, weights)
