"""Conversations -> a committed folder of ids and weights (planes.py), keyed by rows, tokenizer, template and options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from limbeck.data.controls import Controls
from limbeck.data.dataset_info import Entry
from limbeck.data.inputs import Inputs
from limbeck.data.making import made
from limbeck.data.parts import parted
from limbeck.data.planes import QUARANTINE, Planes, Prepared, counts_of, set_aside, write_counts
from limbeck.data.prepare import watched
from limbeck.data.records import records
from limbeck.data.renderer import Template
from limbeck.data.sieve import Sieve
from limbeck.data.talks import Counts, Reading, Speech, Talks, Writer
from limbeck.data.tokenize import largest_id, tokenizer_fingerprint
from limbeck.data.workers import Advance, Fill, Work
from limbeck.errors import DataError

FORMAT = "chat 2"


@dataclass(frozen=True)
class Rows:
    """Rows to be read. name: for people; entry: what LLaMA-Factory's list says of their keys."""

    name: str
    found: Inputs
    entry: Entry | None = None


def prepare_chat(
    tokenizer: Any,
    rows: Rows,
    into: str | Path,
    *,
    template: Template | None,
    reading: Reading,
    workers: int = 1,
) -> Prepared:
    """Finds, or makes, `into`/<key>: the key is the rows' digests, tokenizer, template and options."""
    rendering = {k: v for k, v in asdict(template).items() if k != "name"} if template else None
    found = rows.found
    key = {
        "format": FORMAT,
        "text": found.identity(),
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": rendering,
        "entry": rows.entry.key() if rows.entry else None,
        "reading": asdict(reading) | ({} if found.hub or found.saved else {"split": None}),
    }

    def begin() -> tuple[Work, list[Inputs]]:
        named = tokenizer.name_or_path or "the tokenizer"
        speech = Speech(named, Controls(tokenizer), largest_id(tokenizer), template)
        work = _Chat(rows.name, reading, speech, rows.entry)
        return work, parted(found) if reading.most is None else [found]

    return made(into, key, begin, workers=workers)


@dataclass(frozen=True)
class _Chat:
    """What is done to rows of conversations."""

    name: str
    reading: Reading
    speech: Speech
    entry: Entry | None

    @contextmanager
    def opened(self, characters: int) -> Iterator[Fill]:
        """Ready to fill one part after the other."""
        with Writer(self.speech) as writer:

            def fill(folder: Path, found: Inputs, advance: Advance) -> None:
                reading = self.reading
                sieve = Sieve(folder / QUARANTINE if reading.hostile == "quarantine" else None)
                with ExitStack() as stack:
                    stack.callback(sieve.close)
                    planes = Planes(folder, self.speech.largest, stack, weighed=True)
                    talks = Talks(self.speech, writer, reading, sieve, planes)
                    rows = watched(records(found, sieve, split=reading.split), sieve, advance)
                    talks.take(rows, self.entry.renamed if self.entry else dict, characters)
                counts = planes.counts() | asdict(talks.counts)
                counts |= {"kept": sieve.kept, "quarantined": sieve.quarantined}
                write_counts(folder, counts)

            yield fill

    def check(self, folder: Path) -> None:
        """Raises DataError where nothing counts."""
        counts = counts_of(folder)
        if not counts["documents"]:
            told = ", ".join(f"{counts[one.name]:,} {one.name}" for one in fields(Counts))
            raise DataError(
                f"{self.name}: no conversation in which anything counts ({told}).{set_aside(folder)}"
            )
