"""A text -> parts that can be prepared one by one: they depend on the text alone, not on who prepares them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from limbeck.data.inputs import KINDS, Inputs, Stretch, kind

SMALLEST, LARGEST = 4_000_000, 64_000_000
"""Bytes of a part: enough that starting it costs little, few enough that little is lost with it."""
PARTS = 64
"""Parts of a text, where that gives none too small or too large."""
_BLOCK = 1 << 20

Piece = tuple[Path, Stretch | None, int]


def parted(found: Inputs) -> list[Inputs]:
    """The same text in parts, in order: stretches of large files, and small files together.

    Lines of JSON are cut behind a line, Parquet between groups of rows; other files, saved datasets and those of the
    Hub are not cut.
    """
    if found.size is None or found.saved is not None or found.size <= SMALLEST:
        return [found]
    size = min(max(found.size // PARTS, SMALLEST), LARGEST)
    groups = list[list[Piece]]()
    left = 0
    for piece in (piece for path in found.files for piece in _cut(path, size)):
        if not groups or piece[2] > left:
            groups.append([])
            left = size
        groups[-1].append(piece)
        left -= piece[2]
    if len(groups) == 1:
        return [found]
    marks = dict(zip(found.files, found.marks, strict=False))
    return [
        Inputs(
            files=tuple(path for path, _, _ in one),
            stretches=tuple(some for _, some, _ in one),
            marks=tuple(marks[path] for path, _, _ in one if path in marks),
        )
        for one in groups
    ]


def places(parts: list[Inputs]) -> list[dict[str, Any]]:
    """Where each part of a text lies in it: the same for two parts of one text only if they are the same part."""
    found, begin = [], 0
    for part in parts:
        pieces = [[size, None if some is None else asdict(some)] for _, some, size in part.pieces()]
        found.append({"begin": begin, "pieces": pieces})
        begin += part.size or 0
    return found


def _cut(path: Path, size: int) -> Iterator[Piece]:
    """A file in stretches of about a size, or the whole of it."""
    whole = path.stat().st_size
    ending = kind(path, (*KINDS, ".json"))
    found = list[Stretch]()
    if whole > size and ending == ".jsonl":
        found = list(_lines(path, whole, -(-whole // round(whole / size))))
    elif whole > size and ending == ".parquet":
        found = _groups(path, whole, size)
    if len(found) < 2:
        yield path, None, whole
    else:
        yield from ((path, some, some.size) for some in found)


def _lines(path: Path, whole: int, size: int) -> Iterator[Stretch]:
    begin = before = 0
    with path.open("rb") as stream:
        while begin < whole:
            end = _line_end(stream, min(begin + size, whole))
            yield Stretch(begin, end, before, end - begin)
            before += _newlines(stream, begin, end)
            begin = end


def _line_end(stream: IO[bytes], place: int) -> int:
    """The end of the line that stands at a place of a file."""
    stream.seek(place)
    while (line := stream.readline(_BLOCK)) and not line.endswith(b"\n"):
        pass
    return stream.tell()


def _newlines(stream: IO[bytes], begin: int, end: int) -> int:
    stream.seek(begin)
    return sum(
        stream.read(min(_BLOCK, end - place)).count(b"\n") for place in range(begin, end, _BLOCK)
    )


def _groups(path: Path, whole: int, size: int) -> list[Stretch]:
    """Groups of rows, by their numbers; nothing where they cannot be read: who reads the file will say why."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet
    except ImportError:
        return []
    try:
        about = arrow.parquet.ParquetFile(path).metadata
        rows = [about.row_group(number).num_rows for number in range(about.num_row_groups)]
    except (arrow.ArrowException, OSError):
        return []
    found, begin, before, taken = list[Stretch](), 0, 0, 0
    for end in range(1, len(rows) + 1):
        seen = before + sum(rows[begin:end])
        reached = whole * seen // max(1, sum(rows))
        if reached - taken >= size or end == len(rows):
            found.append(Stretch(begin, end, before, reached - taken))
            begin, before, taken = end, seen, reached
    return found
