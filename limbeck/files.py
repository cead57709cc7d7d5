"""The commit layer: a file or folder is complete and verified, or it is absent.

Single flipped bytes pass unseen through safetensors, Parquet and torch.save, so every committed folder
carries a manifest with size and SHA-256 of each file, written last and verified on opening.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import Damaged, LimbeckError

MANIFEST = "manifest.json"
FORMAT = 1
_PARTIAL = ".partial-"
_DAY = 86_400.0
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of an OSError: there is no room for what is to be written."""


def canonical(value: Any) -> bytes:
    """JSON in one spelling: sorted keys, no spaces, no NaN, one newline at the end."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
    )
    return text.encode() + b"\n"


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Makes renames inside a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _partial(path: Path) -> Path:
    """Where a path is written before it exists: the name tells which process of which machine writes."""
    host = digest(platform.node().encode())[:8]
    return path.with_name(f"{_PARTIAL}{os.getpid()}-{host}-{path.name}")


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees the old bytes or the new ones, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    with partial.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def written_by(error: type[Exception], path: Path) -> Iterator[None]:
    """Inside it a library writes a file: its own error, where it tells "(os error 28)" of the system, becomes an OSError."""
    try:
        yield
    except error as reason:
        if refused := re.search(r"\(os error (\d+)\)", str(reason)):
            number = int(refused[1])
            raise OSError(number, os.strerror(number), str(path)) from reason
        raise


def in_share(raw: bytes, share: float) -> bool:
    """Whether these bytes belong to a share of all there are: a property of the bytes alone, so the same on every machine."""
    return int(digest(raw)[:13], 16) < share * 16**13


def sealed(body: dict[str, Any]) -> bytes:
    """Canonical JSON of an object that carries its own digest."""
    return canonical(body | {"sha256": digest(canonical(body))})


def parse_sealed(raw: bytes, where: str) -> dict[str, Any]:
    """The object of `sealed` bytes; one changed byte is refused."""
    body = parse_json(raw, where)
    try:
        same = isinstance(body, dict) and canonical(body) == raw
    except UnicodeEncodeError:  # half of a surrogate pair: JSON can spell it, UTF-8 cannot
        same = False
    if not same:
        raise Damaged(f"{where}: its bytes are not those that were written.")
    claimed = body.pop("sha256", None)
    if claimed != digest(canonical(body)):
        raise Damaged(f"{where}: its digest is {digest(canonical(body))}, it claims {claimed}.")
    return dict(body)


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file for people and programs, whole or not at all."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False, sort_keys=False)
    write_bytes(path, text.encode() + b"\n")


def read_json(path: Path) -> Any:
    """Reads JSON strictly: no NaN, no infinity, no key twice, UTF-8 only."""
    return parse_json(path.read_bytes(), str(path))


def parse_json(data: bytes, where: str) -> Any:
    """Parses JSON strictly; the error names where it stood."""

    def constant(name: str) -> Any:
        raise Damaged(f"{where}: {name} is not a JSON number.")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            raise Damaged(f"{where}: a key stands twice in one object.")
        return found

    def number(digits: str) -> float:
        value = float(digits)
        if math.isinf(value):
            raise Damaged(f"{where}: {digits[:20]} is too large for a number.")
        return value

    try:
        return json.loads(
            data.decode(), parse_constant=constant, parse_float=number, object_pairs_hook=pairs
        )
    # ValueError: bad UTF-8, bad JSON, and an integer of more than 4,300 digits.
    except (ValueError, RecursionError) as reason:
        raise Damaged(f"{where}: not readable as JSON ({reason}).") from reason


@dataclass(frozen=True)
class Manifest:
    """What a committed folder says of itself. files: {relative path: {size, sha256}}."""

    folder: Path
    files: dict[str, dict[str, Any]]
    about: dict[str, Any]


def _listed(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    # Its own alone: what is called so further down is a file as any other.
    return sorted(p.relative_to(folder).as_posix() for p in found if p != folder / MANIFEST)


@contextlib.contextmanager
def committed(folder: Path, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Gives a hidden folder to write into; on leaving, hashes, syncs and renames it into place.

    Where the block raises, or the process dies, `folder` does not come to exist. An existing `folder` is an
    error, because what is committed is never changed. `about` goes into the manifest.
    """
    if folder.exists():
        raise LimbeckError(f"{folder} exists already; what is committed is never written over.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        seal(partial, about)
        try:
            partial.rename(folder)
        except OSError as reason:
            if folder.exists():
                raise LimbeckError(f"{folder} was committed by another process.") from reason
            raise
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def seal(folder: Path, about: dict[str, Any] | None = None) -> None:
    """Writes the manifest of a folder whose files are all written, and syncs everything."""
    files = {}
    for name in _listed(folder):
        path = folder / name
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        files[name] = {"size": path.stat().st_size, "sha256": found}
    for inner in (path for path in folder.rglob("*") if path.is_dir()):
        sync_folder(inner)
    body = {"format": FORMAT, "files": files, "about": about or {}}
    write_bytes(folder / MANIFEST, sealed(body))


def read_manifest(folder: Path) -> Manifest:
    """Reads a manifest and checks it against its own digest, not yet the files."""
    path = folder / MANIFEST
    if not path.is_file():
        raise Damaged(
            f"{folder} has no {MANIFEST}: it was never committed, or the file was deleted."
        )
    raw = path.read_bytes()
    body = parse_sealed(raw, str(path))
    if body.get("format") != FORMAT:
        raise Damaged(f"{path}: format {body.get('format')} found, this program reads {FORMAT}.")
    listed: Any = body.get("files")
    about: Any = body.get("about")
    kinds = isinstance(about, dict) and isinstance(listed, dict)
    if not kinds or not all(map(_entry, listed.values())):
        raise Damaged(
            f"{path}: its keys are {', '.join(sorted(body))}; wanted about, and files, each with its size and sha256."
        )
    return Manifest(folder, listed, about)


def _entry(found: Any) -> bool:
    """Whether this is what a manifest says of a file."""
    sized = isinstance(found, dict) and type(found.get("size")) is int
    return sized and isinstance(found.get("sha256"), str)


def verify(folder: Path) -> Manifest:
    """Opens a committed folder: every file present, none too many, each byte as it was written."""
    manifest = read_manifest(folder)
    for name, claimed in manifest.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise Damaged(f"{path} is missing; {folder / MANIFEST} lists it.")
        size = path.stat().st_size
        if size != claimed["size"]:
            raise Damaged(f"{path}: {size:,} bytes found, {claimed['size']:,} were written.")
        found = file_digest(path)
        if found != claimed["sha256"]:
            raise Damaged(f"{path}: SHA-256 {found} found, {claimed['sha256']} was written.")
    extra = sorted(set(_listed(folder)) - set(manifest.files))
    if extra:
        raise Damaged(f"{folder / extra[0]} stands in a committed folder whose manifest lacks it.")
    return manifest


def sweep(folder: Path) -> None:
    """Removes what killed processes left half written in a folder that this process owns."""
    for left in folder.glob(f"{_PARTIAL}*"):
        _remove(left)


def sweep_abandoned(folder: Path) -> None:
    """Removes what killed processes left half written in a folder that others may be writing in now.

    Call it before this process writes there. A process of this machine is asked for; what another machine left is
    removed once nobody touched it for a day.
    """
    host = digest(platform.node().encode())[:8]
    for left in folder.glob(f"{_PARTIAL}*"):
        found = re.match(rf"{re.escape(_PARTIAL)}(\d+)-([0-9a-f]{{8}})-", left.name)
        if found and found[2] == host:
            writing = int(found[1]) != os.getpid() and _alive(int(found[1]))
        else:
            writing = time.time() - left.lstat().st_mtime < _DAY
        if not writing:
            _remove(left)


def _remove(left: Path) -> None:
    """Removes a file or folder that another sweeper may be removing too."""
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
