"""An unfinished conversion goes on from the input that it was begun with, and from no other."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from limbeck import files
from limbeck.errors import CacheMismatch, Damaged

INPUT = "input.json"


def digests(paths: Iterable[Path]) -> dict[str, str]:
    """What makes an input the same: the name and the SHA-256 of each of its files."""
    return {path.name: files.file_digest(path) for path in paths}


def begin_or_go_on(new: Path, shards: Path, given: dict[str, str]) -> None:
    """Writes what the conversion into `new` is of, or makes sure that what was begun there is of the same.

    The name of a shard is that of its tokens: of one that was written from other numbers nothing else tells.
    """
    place = new / INPUT
    cure = f"Convert into another folder, or remove {new} to begin again."
    if not place.exists():
        if any(shards.glob("[!.]*")):
            raise CacheMismatch(
                f"{new} holds an unfinished conversion and no {INPUT}: of which input it is, is unknown. {cure}"
            )
        files.write_bytes(place, files.sealed({"files": given}))
    # Read back also what was just written: another process may have been faster with something else.
    found = files.parse_sealed(place.read_bytes(), str(place)).get("files")
    if not isinstance(found, dict):
        raise Damaged(f"{place}: says nothing of files. {cure}")
    changed = sorted(name for name in {*found, *given} if found.get(name) != given.get(name))
    if changed:
        name = changed[0]
        raise CacheMismatch(
            f"{place}: the unfinished conversion there is of another input: {name} had SHA-256 {found.get(name, 'none')} "
            f"and has {given.get(name, 'none')} (files that differ: {len(changed)}). {cure}"
        )
