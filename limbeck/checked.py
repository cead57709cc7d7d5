"""JSON files of ours that somebody may have changed: each must hold what is written there, or is refused by its place."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Strict, TypeAdapter, ValidationError

from limbeck import files
from limbeck.errors import Damaged

T = TypeVar("T")
Number = Annotated[float, Strict()]
"""A number as JSON writes it; a word that looks like one is none."""
Whole = Annotated[int, Strict()]
_SHOWN = 60


def read(path: Path, shape: type[T], mend: str) -> T:
    """The file's value, as it stands there; raises Damaged where it is not of this shape. mend: what to do then."""
    return value(files.read_json(path), shape, str(path), mend)


def value(found: Any, shape: type[T], where: str, mend: str) -> T:
    """The value itself, once it is of this shape: a TypedDict, whose other keys may be there as well."""
    hashable: Any = shape
    try:
        _adapter(hashable).validate_python(found)
    except ValidationError as reason:
        raise Damaged(f"{where} {_told(reason)}. {mend}") from reason
    same: T = found
    return same


def lines(path: Path, shape: type[T], mend: str) -> list[T]:
    """The values of a file of JSON lines, each as in `value`; a last line that a kill cut short is passed over."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_bytes().rpartition(b"\n")
    return [
        value(files.parse_json(line, str(path)), shape, f"{path}, line {number},", mend)
        for number, line in enumerate(whole.split(b"\n"), 1)
        if line
    ]


@functools.cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


def _told(reason: ValidationError) -> str:
    """The first thing that is wrong, and where in the file."""
    first = reason.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"has no '{place}', which is written there"
    found = repr(first["input"])
    short = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}…"
    wanted = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"has {short} {f'at {place!r}' if place else 'in all'}; wanted: {wanted}"
