"""Text files and datasets -> documents; a bad row is named or quarantined, never dropped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.data.inputs import Inputs, Stretch, inputs, kind
from limbeck.data.records import Lines, json_lines, lines, one_by_one, rows_of, stream_of
from limbeck.data.sieve import MAX_BYTES, Sieve, unusable
from limbeck.errors import DataError


@dataclass(frozen=True)
class Document:
    """One text, and where it came from ('file:line')."""

    text: str
    where: str


def read(
    path: str | Path,
    *,
    field: str = "text",
    split: str = "train",
    split_at: str | None = None,
    hostile: Literal["stop", "quarantine"] = "stop",
    quarantine: Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[Document]:
    r"""Reads whatever a path names (see inputs.py), in a fixed order.

    split_at: for .txt, a regex; each line it is found in begins a new document and stays in it, but for
    what a group captures: '^ = [^=]+ = $' keeps WikiText's titles, '^(<\|endoftext\|>)$' drops a mark.
    """
    if hostile == "quarantine" and quarantine is None:
        raise DataError("hostile: quarantine needs a file to list the refused rows in.")
    sieve = Sieve(quarantine if hostile == "quarantine" else None, max_bytes)
    return sieved(inputs(path, split), sieve, field=field, split=split, split_at=split_at)


def sieved(
    found: Inputs, sieve: Sieve, *, field: str, split: str, split_at: str | None
) -> Iterator[Document]:
    """Like `read`, with a Sieve of the caller's that counts while the rows go by."""
    if found.hub is not None or found.saved is not None:
        return _counted(_dataset(found, sieve, field, split), sieve)
    return _counted(_files(found, sieve, field, _pattern(split_at)), sieve)


def _counted(documents: Iterator[Document], sieve: Sieve) -> Iterator[Document]:
    try:
        for document in documents:
            sieve.kept += 1
            yield document
    finally:
        sieve.close()


def _pattern(split_at: str | None) -> re.Pattern[str] | None:
    try:
        return None if split_at is None else re.compile(split_at)
    except re.error as reason:
        raise DataError(
            f"split_at: {split_at!r} is not a regular expression ({reason})."
        ) from reason


def _files(
    found: Inputs, sieve: Sieve, field: str, mark: re.Pattern[str] | None
) -> Iterator[Document]:
    before = 0
    for path, some, size in found.pieces():
        if kind(path) == ".parquet":
            yield from _parquet(path, some, sieve, field)
        elif kind(path).startswith(".jsonl"):
            yield from _jsonl(path, some, sieve, field)
        else:
            with stream_of(path) as stream:
                yield from _text(path, stream, sieve, mark)
        # What was counted on the way was bytes of text, of compressed files too many.
        before += size
        sieve.read_bytes = before


def _jsonl(path: Path, some: Stretch | None, sieve: Sieve, field: str) -> Iterator[Document]:
    with stream_of(path, some) as stream:
        yield from _rows(path, json_lines(stream, sieve, some.before if some else 0), sieve, field)


def _rows(
    path: Path, found: Iterator[tuple[int, dict[str, Any], str]], sieve: Sieve, field: str
) -> Iterator[Document]:
    for number, row, reason in found:
        text, reason = ("", reason) if reason else _field(row, field)
        if reason:
            sieve.refuse(str(path), number, reason)
        else:
            yield Document(text, f"{path}:{number}")


def _field(row: dict[str, Any], field: str) -> tuple[str, str]:
    """The text of a row, and '' or the reason for refusing it."""
    if field not in row:
        return "", f"no field '{field}' (it has: {_some(list(row))})"
    if not isinstance(row[field], str):
        return "", f"field '{field}' is {type(row[field]).__name__}, not a string"
    return row[field], unusable(row[field])


def _some(names: list[str]) -> str:
    return ", ".join(ascii(name[:40]) for name in names[:8])


def _text(
    path: Path, stream: Lines, sieve: Sieve, mark: re.Pattern[str] | None
) -> Iterator[Document]:
    for number, raw, size in _sections(stream, sieve, mark):
        text, reason = sieve.decoded(raw)
        if size > sieve.max_bytes:
            reason = f"a document of {size:,} bytes, more than {sieve.max_bytes:,}; give split_at"
        if reason:
            sieve.refuse(str(path), number, reason)
        else:
            yield Document(text, f"{path}:{number}")


def _sections(
    stream: Lines, sieve: Sieve, mark: re.Pattern[str] | None
) -> Iterator[tuple[int, bytes, int]]:
    """First line, bytes and whole size of each document in a text file."""
    begun, size, held = 1, 0, list[bytes]()
    for number, line, whole in lines(stream, sieve):
        if mark is not None and (
            match := mark.search(line.rstrip(b"\r\n").decode(errors="surrogateescape"))
        ):
            if size:
                yield begun, b"".join(held), size
            begun, size, held = number, 0, []
            if match.lastindex:
                line = _without(line, match)
                whole = len(line)
        if size <= sieve.max_bytes:
            held.append(line)
        size += whole
    if size:
        yield begun, b"".join(held), size


def _without(line: bytes, match: re.Match[str]) -> bytes:
    """The line less what the first group captured; nothing where only its ending is left."""
    left = match.string[: match.start(1)] + match.string[match.end(1) :]
    ending = line[len(line.rstrip(b"\r\n")) :]
    return left.encode(errors="surrogateescape") + ending if left else b""


def _parquet(path: Path, some: Stretch | None, sieve: Sieve, field: str) -> Iterator[Document]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as missing:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'limbeck[data]'.") from missing
    try:
        # Page checksums are written by many tools, and looked at only when asked for.
        opened = arrow.parquet.ParquetFile(path, page_checksum_verification=True)
        columns = opened.schema_arrow
        if field not in columns.names:
            raise DataError(f"{path}: no column '{field}'. It has: {_some(columns.names)}.")
        one_by_one(columns.names, path)
        number = some.before if some else 0
        groups = range(some.begin, some.end) if some else None
        for batch in opened.iter_batches(batch_size=256, row_groups=groups, columns=[field]):
            for value in _cells(batch.column(0), arrow, f"{path}, column '{field}'"):
                number += 1
                text, reason = ("", "null") if value is None else sieve.decoded(value)
                if reason:
                    sieve.refuse(str(path), number, reason)
                else:
                    yield Document(text, f"{path}:{number}")
    except (arrow.ArrowException, OSError, ValueError) as problem:
        told = str(problem)[:500]
        raise DataError(f"{path}: cannot be read as Parquet ({told}).") from problem


def _cells(column: Any, arrow: Any, where: str) -> list[bytes | None]:
    """Strings as bytes, so that one that is not UTF-8 spoils its own row only."""
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type)):
        raise DataError(f"{where}: holds {column.type}, not strings.")
    large = arrow.types.is_large_string(column.type)
    cells: list[bytes | None] = column.cast(
        arrow.large_binary() if large else arrow.binary()
    ).to_pylist()
    return cells


def _dataset(found: Inputs, sieve: Sieve, field: str, split: str) -> Iterator[Document]:
    where = str(found.saved) if found.hub is None else found.hub.name
    for number, row in enumerate(rows_of(found, split, where), 1):
        if field not in row:
            raise DataError(f"{where}: no column '{field}'. It has: {_some(list(row))}.")
        value = row[field]
        if not isinstance(value, str):
            sieve.refuse(where, number, f"column '{field}' is {type(value).__name__}, not a string")
        elif reason := unusable(value):
            sieve.refuse(where, number, reason)
        else:
            yield Document(value, f"{where}:{number}")
