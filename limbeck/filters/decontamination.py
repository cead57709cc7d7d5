"""Decontamination: rows that say what a benchmark asks, which would make its figures worthless."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from limbeck.data.inputs import ROWS, inputs
from limbeck.data.records import records
from limbeck.data.sieve import Sieve
from limbeck.errors import LimbeckError
from limbeck.filters._rows import Row

_WORD = re.compile(r"\w+")


def decontamination(
    rows: Sequence[Row],
    *,
    against: Annotated[tuple[str, ...], Field(min_length=1)],
    words: Annotated[int, Field(gt=0)] = 13,
    least: Annotated[int, Field(gt=0)] = 8,
) -> list[str]:
    """A reason for each row whose prompt or answer has a run of `words` words of a benchmark's (Brown et al., 2020).

    against: files or folders of rows (JSONL, JSON, Parquet); every text in a row counts, whatever its key. A text of fewer words
    is looked for as a whole, if it has `least` at least. Case, punctuation and space do not count.
    """
    known = dict[tuple[str, ...], str]()
    for place in against:
        for where, text in _texts(place):
            spoken = tuple(_WORD.findall(text.lower()))
            if len(spoken) >= least:
                for run in _runs(spoken, min(words, len(spoken))):
                    known.setdefault(run, where)
    if not known:
        raise LimbeckError(
            f"filter 'decontamination': nothing of {', '.join(against)} has {least} words."
        )
    sizes = sorted({len(run) for run in known})
    return [_reason((row.get("prompt", ""), row["response"]), known, sizes) for row in rows]


def _reason(texts: tuple[str, str], known: dict[tuple[str, ...], str], sizes: Sequence[int]) -> str:
    for text in texts:
        spoken = tuple(_WORD.findall(text.lower()))
        for size in sizes:
            for run in _runs(spoken, size):
                if run in known:
                    return f"{size} words of {known[run]}: '{' '.join(run)}'"
    return ""


def _runs(spoken: tuple[str, ...], size: int) -> Iterator[tuple[str, ...]]:
    return (spoken[at : at + size] for at in range(len(spoken) - size + 1))


def _texts(place: str) -> Iterator[tuple[str, str]]:
    """Every text of a benchmark's rows, with where it stands."""
    # Of a folder all splits: which of them a figure will be made of is not known here.
    whole = f"{place.rstrip('/')}/**/*" if Path(place).expanduser().is_dir() else place
    for record in records(inputs(whole, kinds=ROWS), Sieve(), split="test"):
        for text in _strings(record.row):
            yield record.where, text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)
