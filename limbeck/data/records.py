"""Files and datasets -> rows of named values, in a fixed order; a row that cannot be read is named or set aside."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from limbeck.data.inputs import ROWS, Inputs, Stretch, kind
from limbeck.data.sieve import Sieve
from limbeck.errors import Damaged, DataError
from limbeck.files import parse_json

_PIECE = 1 << 20
# An array is read whole and takes several times its size in memory; lines of JSON have no such limit.
LARGEST_ARRAY = 1_000_000_000
# What pyarrow and datasets raise of files that are not what they say.
_FOREIGN = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Record:
    """One row, and where it came from."""

    row: dict[str, Any]
    file: str
    line: int

    @property
    def where(self) -> str:
        """'file:line'."""
        return f"{self.file}:{self.line}"


def records(found: Inputs, sieve: Sieve, *, split: str) -> Iterator[Record]:
    """Every row of what was found. The caller says which it kept, and closes the sieve."""
    if found.hub is not None or found.saved is not None:
        where = str(found.saved) if found.hub is None else found.hub.name
        for number, row in enumerate(rows_of(found, split, where), 1):
            yield Record(dict(row), where, number)
        return
    before = 0
    for path, some, size in found.pieces():
        yield from _file(path, some, sieve)
        before += size
        sieve.read_bytes = before


def _file(path: Path, some: Stretch | None, sieve: Sieve) -> Iterator[Record]:
    ending = kind(path, ROWS)
    if ending == ".parquet":
        yield from _parquet(path, some, sieve)
    elif ending == ".json" and _begins(path) == b"[":
        yield from _array(path, sieve)
    else:
        with stream_of(path, some) as stream:
            for number, row, reason in json_lines(stream, sieve, some.before if some else 0):
                if reason:
                    sieve.refuse(str(path), number, reason)
                else:
                    yield Record(row, str(path), number)


class Lines(Protocol):
    """What lines can be read from."""

    def readline(self, limit: int, /) -> bytes:
        """The next line, or so many bytes of it."""
        ...


class _Until:
    """The lines of a stream up to a place, which is behind a line."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream, self._left = stream, left

    def readline(self, limit: int, /) -> bytes:
        """The next line, or so many bytes of it."""
        line = self._stream.readline(min(limit, self._left))
        self._left -= len(line)
        return line


@contextlib.contextmanager
def stream_of(path: Path, some: Stretch | None = None) -> Iterator[Lines]:
    """The lines of a file, unpacked where its name ends in .gz; damage in it is told by its name."""
    with path.open("rb") as raw:
        packed = path.name.lower().endswith(".gz")
        try:
            if some is not None:
                raw.seek(some.begin)
                yield _Until(raw, some.end - some.begin)
            else:
                yield cast(Lines, gzip.GzipFile(fileobj=raw) if packed else raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as reason:
            raise DataError(f"{path}: damaged or cut off gzip data ({reason}).") from reason


def lines(stream: Lines, sieve: Sieve, before: int = 0) -> Iterator[tuple[int, bytes, int]]:
    r"""Number, bytes and whole size of each line. Lines end at b"\n" and nowhere else.

    Of a line over the limit only its beginning is held, so that memory stays bounded. before: lines of the file that
    were left out.
    """
    number = before
    while line := stream.readline(sieve.max_bytes + 2):
        number += 1
        size = len(line)
        while not line.endswith(b"\n") and size > sieve.max_bytes:
            rest = stream.readline(_PIECE)
            size += len(rest.removesuffix(b"\n"))
            if not rest or rest.endswith(b"\n"):
                break
        sieve.read_bytes += size
        yield number, line, size


def json_lines(
    stream: Lines, sieve: Sieve, before: int = 0
) -> Iterator[tuple[int, dict[str, Any], str]]:
    """Number and object of each line of JSON, and '' or the reason for refusing it."""
    for number, line, size in lines(stream, sieve, before):
        size -= line.endswith(b"\n")
        if size > sieve.max_bytes:
            yield number, {}, f"a line of {size:,} bytes, more than {sieve.max_bytes:,}"
        elif not line.strip():
            yield number, {}, "an empty line"
        else:
            yield number, *_object(line)


def _object(line: bytes) -> tuple[dict[str, Any], str]:
    try:
        row = parse_json(line, "")
    except Damaged as problem:
        return {}, str(problem).removeprefix(": ").removesuffix(".")
    return (row, "") if isinstance(row, dict) else ({}, _no_object(row))


def _no_object(row: Any) -> str:
    return f"a JSON {type(row).__name__}, not an object"


def _begins(path: Path) -> bytes:
    """The first byte of a file that is no space: '[' begins an array, '{' the first of many lines."""
    with path.open("rb") as stream:
        return stream.read(4096).lstrip()[:1]


def _array(path: Path, sieve: Sieve) -> Iterator[Record]:
    """The rows of a JSON array; their numbers are their places in it, from 1."""
    size = path.stat().st_size
    if size > LARGEST_ARRAY:
        raise DataError(
            f"{path}: a JSON array of {size:,} bytes is read whole; {LARGEST_ARRAY:,} are the most. "
            "Write it as JSONL, one row a line."
        )
    try:
        rows = parse_json(path.read_bytes(), str(path))
    except Damaged as problem:
        raise DataError(f"{problem} Nothing of an array is read where it is not whole.") from None
    for number, row in enumerate(rows, 1):
        if isinstance(row, dict):
            yield Record(row, str(path), number)
        else:
            sieve.refuse(str(path), number, _no_object(row))
    sieve.read_bytes += size


def _parquet(path: Path, some: Stretch | None, sieve: Sieve) -> Iterator[Record]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError as missing:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'limbeck[data]'.") from missing
    number = some.before if some else 0
    groups = range(some.begin, some.end) if some else None
    try:
        file = arrow.parquet.ParquetFile(path, page_checksum_verification=True)
        one_by_one(file.schema_arrow.names, path)
        for batch in file.iter_batches(batch_size=256, row_groups=groups):
            for place in range(len(batch)):
                number += 1
                try:
                    (row,) = batch.slice(place, 1).to_pylist()
                except _FOREIGN as problem:
                    wrong = isinstance(problem, UnicodeDecodeError)
                    told = "not UTF-8" if wrong else "a cell that cannot be read"
                    sieve.refuse(str(path), number, f"{told} ({str(problem)[:200]})")
                else:
                    yield Record(row, str(path), number)
    except (arrow.ArrowException, OSError, ValueError) as problem:
        told = str(problem)[:500]
        raise DataError(f"{path}: cannot be read as Parquet ({told}).") from problem


def one_by_one(names: list[str], path: Path) -> None:
    """Refuses a table in which two columns have one name, of which a row could hold one only."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: the column {ascii(twice[0])[:80]} stands twice. Rename one of them."
        )


def rows_of(found: Inputs, split: str, where: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset, one after the other."""
    try:
        yield from opened(found, split, where)
    except _FOREIGN as problem:
        raise _unread(where, split, problem) from problem


def opened(found: Inputs, split: str, where: str) -> Any:
    """A dataset, streamed from the Hub at its pinned commit or read from a folder."""
    try:
        import datasets
    except ImportError as missing:
        raise DataError(f"{where}: a dataset needs: pip install 'limbeck[data]'.") from missing
    try:
        if found.hub is None:
            return datasets.load_from_disk(where)
        return datasets.load_dataset(
            found.hub.name,
            found.hub.config,
            revision=found.hub.revision,
            split=split,
            streaming=True,
        )
    except _FOREIGN as problem:
        raise _unread(where, split, problem) from problem


def _unread(where: str, split: str, problem: Exception) -> DataError:
    told = f"{type(problem).__name__}: {str(problem)[:500]}"
    return DataError(f"{where}: split '{split}' cannot be opened or read ({told}).")
