"""Documents -> a committed folder of ids (planes.py), keyed by text, tokenizer and options."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from limbeck.data.documents import Document, sieved
from limbeck.data.inputs import Inputs, inputs
from limbeck.data.making import made
from limbeck.data.parts import parted
from limbeck.data.planes import QUARANTINE, Planes, Prepared, counts_of, set_aside, write_counts
from limbeck.data.sieve import Sieve
from limbeck.data.tokenize import (
    Encoder,
    encoder_of,
    largest_id,
    restored,
    spelled,
    tokenizer_fingerprint,
)
from limbeck.data.workers import Advance, Fill, Work
from limbeck.errors import DataError

FORMAT = 2

Read = TypeVar("Read")


@dataclass(frozen=True)
class Reading:
    """How text is read; part of the key, since each changes what comes out."""

    field: str = "text"
    split: str = "train"
    split_at: str | None = None
    hostile: str = "stop"
    max_documents: int | None = None


def prepare(
    tokenizer: Any,
    path: str | Path,
    into: str | Path,
    *,
    reading: Reading | None = None,
    workers: int = 1,
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

    def begin() -> tuple[Work, list[Inputs]]:
        work = _Text(str(path), reading, spelled(tokenizer), largest_id(tokenizer))
        return work, parted(found) if reading.max_documents is None else [found]

    return made(into, key, begin, workers=workers)


@dataclass(frozen=True)
class _Text:
    """What is done to a text. tokenizer: spelled out."""

    name: str
    reading: Reading
    tokenizer: str
    largest: int

    @contextmanager
    def opened(self, characters: int) -> Iterator[Fill]:
        """Ready to fill one part after the other."""
        encode = encoder_of(restored(self.tokenizer))

        def fill(folder: Path, found: Inputs, advance: Advance) -> None:
            reading = self.reading
            sieve = Sieve(folder / QUARANTINE if reading.hostile == "quarantine" else None)
            documents = sieved(
                found, sieve, field=reading.field, split=reading.split, split_at=reading.split_at
            )
            some = itertools.islice(documents, reading.max_documents)
            parts = blocks(
                watched(some, sieve, advance), lambda document: len(document.text), characters
            )
            counts = _write(folder, encode, self.largest, parts)
            sieve.close()
            counts |= {"kept": sieve.kept, "quarantined": sieve.quarantined}
            write_counts(folder, counts)

        yield fill

    def check(self, folder: Path) -> None:
        """Raises DataError where there is no token."""
        counts = counts_of(folder)
        if not counts["documents"]:
            raise DataError(
                f"{self.name}: no document with any token in it ({counts['empty']:,} empty ones).{set_aside(folder)}"
            )


def watched(
    documents: Iterator[Read], sieve: Sieve, advance: Callable[[int], None]
) -> Iterator[Read]:
    """The same documents; says of each how many bytes were read for it."""
    before = 0
    for document in documents:
        yield document
        advance(max(0, sieve.read_bytes - before))
        before = max(before, sieve.read_bytes)


def blocks(
    items: Iterable[Read], size: Callable[[Read], int], characters: int
) -> Iterator[list[Read]]:
    """What is read, in lists of so many characters, so that memory is bounded by one block or one document."""
    held, taken = list[Read](), 0
    for item in items:
        held.append(item)
        taken += size(item)
        if taken >= characters:
            yield held
            held, taken = [], 0
    if held:
        yield held


def _write(
    folder: Path, encode: Encoder, largest: int, parts: Iterator[list[Document]]
) -> dict[str, int]:
    """Writes the planes block by block; documents without a token are counted and left out."""
    empty = 0
    with ExitStack() as stack:
        planes = Planes(folder, largest, stack)
        for block in parts:
            found = encode([document.text for document in block])
            planes.put(found, block)
            empty += len(block) - int((found.counts > 0).sum())
    return planes.counts() | {"empty": empty}
