"""What a path in a recipe names: text files here, a saved dataset, or a dataset on the Hub."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.files import file_digest

KINDS = (".txt", ".txt.gz", ".jsonl", ".jsonl.gz", ".parquet")
ROWS = (".jsonl", ".jsonl.gz", ".json", ".parquet")
"""What holds rows of named values; beside text, .json is read by nobody, since folders hold settings in it."""
SPLITS = ("train", "validation", "valid", "held_out", "test")
_HUB = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w.-]+))?")


Mark = tuple[int, int] | None
"""Size and time of a file, or None of one that is not there."""


@dataclass(frozen=True)
class Hub:
    """A dataset on the Hugging Face Hub, pinned to one commit."""

    name: str
    config: str | None
    revision: str


@dataclass(frozen=True)
class Stretch:
    """Some of a file: bytes of JSON lines, or groups of Parquet's rows, from `begin` to before `end`.

    before: lines or rows of the file that stand before it. size: the bytes of the file that it takes.
    """

    begin: int
    end: int
    before: int
    size: int


@dataclass(frozen=True)
class Inputs:
    """Files in the order in which they are read; or a saved dataset folder; or a Hub dataset.

    stretches: of each file what is read of it, None for all; () where all of every file is read. marks: size and time of
    each when it was found.
    """

    files: tuple[Path, ...] = ()
    saved: Path | None = None
    hub: Hub | None = None
    stretches: tuple[Stretch | None, ...] = ()
    marks: tuple[Mark, ...] = field(default=(), compare=False, repr=False)

    def check(self) -> None:
        """Raises DataError where a file changed since it was found: what was read is not what was identified."""
        for path, before in zip(self.files, self.marks, strict=False):
            if _mark(path) != before:
                raise DataError(
                    f"{path}: changed while it was read. Leave it as it is, and give the same command again."
                )

    def identity(self) -> list[Any]:
        """What the text is, whatever its path is called: digests, or the commit on the Hub."""
        if self.hub is not None:
            return ["hub", self.hub.name, self.hub.config, self.hub.revision]
        # The kind is told by the ending of the name, so that belongs to the identity.
        kinds = KINDS if self.saved else (*KINDS, ".json")
        try:
            return [[kind(path, kinds), file_digest(path)] for path in self.files]
        except OSError as reason:
            names = ", ".join(map(str, self.files[:3]))
            raise DataError(f"{reason.filename or names}: cannot be read ({reason}).") from reason

    @property
    def size(self) -> int | None:
        """Bytes on disk, where they are known."""
        if self.hub is not None:
            return None
        return sum(size for _, _, size in self.pieces())

    def pieces(self) -> Iterator[tuple[Path, Stretch | None, int]]:
        """Each file, what is read of it, and how many bytes that is on disk."""
        for path, some in zip(self.files, self.stretches or [None] * len(self.files), strict=True):
            yield path, some, path.stat().st_size if some is None else some.size


def _mark(path: Path) -> Mark:
    try:
        told = path.stat()
    except OSError:  # gone; who reads it says so
        return None
    return told.st_size, told.st_mtime_ns


def found_files(files: tuple[Path, ...], saved: Path | None = None) -> Inputs:
    """Files as they are now."""
    return Inputs(files=files, saved=saved, marks=tuple(map(_mark, files)))


def kind(path: Path, kinds: tuple[str, ...] = KINDS) -> str:
    """The ending that says how a file is read, or '' for a file of another kind."""
    name = path.name.lower()
    return next((ending for ending in reversed(kinds) if name.endswith(ending)), "")


def inputs(path: str | Path, split: str = "train", *, kinds: tuple[str, ...] = KINDS) -> Inputs:
    """Finds what a path names: a file, a glob, a folder, or 'owner/name[:config][@revision]'.

    A folder with files or folders named after splits ('train.jsonl', 'test-00000.parquet', 'train/')
    gives those of `split` only, so that held-out text is never read as training text.
    """
    place, is_folder, is_file = _looked(path)
    if is_folder:
        return _folder(place, split, kinds)
    if is_file:
        if not kind(place, kinds):
            raise DataError(f"{place}: not a kind of text that is read. {_wanted(kinds)}")
        return found_files((place,))
    if any(mark in str(path) for mark in "*?["):
        # Path.glob takes no absolute pattern.
        found = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207
        files = _files(map(Path, found), kinds)
        if files:
            return found_files(files)
        raise DataError(f"{path}: no text file matches this pattern. {_wanted(kinds)}")
    named = _HUB.fullmatch(str(path))
    if named and not kind(place, kinds):
        return Inputs(hub=_pinned(named["name"], named["config"], named["revision"]))
    shown = str(path).encode("utf-8", "backslashreplace").decode()[:1000]
    raise DataError(
        f"{shown}: there is no such file or folder (looked in {Path.cwd()}). {_wanted(kinds)}"
    )


def _looked(path: str | Path) -> tuple[Path, bool, bool]:
    """A place, and whether it is a folder or a file; what no file system can hold is neither."""
    try:
        place = Path(path).expanduser()
        return place, place.is_dir(), place.is_file()
    except (OSError, RuntimeError):  # a name that is too long, a user who is not there
        return Path(path), False, False


def _wanted(kinds: tuple[str, ...]) -> str:
    return (
        f"Wanted: a file ({', '.join(kinds)}), a folder or pattern of those, or a dataset of the "
        "Hugging Face Hub as 'owner/name', 'owner/name:config' or 'owner/name@revision'."
    )


def _folder(folder: Path, split: str, kinds: tuple[str, ...]) -> Inputs:
    if (folder / "dataset_dict.json").is_file():
        folder = folder / split
        if not folder.is_dir():
            raise DataError(f"{folder}: the saved dataset has no split '{split}'.")
    if (folder / "dataset_info.json").is_file() and (folder / "state.json").is_file():
        files = tuple(path for path in sorted(folder.iterdir()) if path.is_file())
        return found_files(files, folder)
    files = _files(sorted(walked(folder)), kinds)
    if not files:
        raise DataError(f"{folder}: holds no text file. {_wanted(kinds)}")
    splits = {_split_of(path, folder) for path in files} - {""}
    if not splits:
        return found_files(files)
    chosen = tuple(path for path in files if _split_of(path, folder) == split)
    if not chosen:
        raise DataError(
            f"{folder}: no split '{split}'. It has: {', '.join(sorted(splits))}. "
            "Correct 'split', or name a file."
        )
    return found_files(chosen)


def walked(folder: Path) -> Iterator[Path]:
    """All that lies in a folder and is not hidden, through links; a folder before what is in it, and none twice."""

    def unread(reason: OSError) -> None:
        raise DataError(f"{reason.filename}: cannot be read ({reason.strerror}).") from reason

    seen = set[tuple[int, int]]()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=unread):
        told = Path(root).stat()
        if (told.st_dev, told.st_ino) in seen:
            folders.clear()
            continue
        seen.add((told.st_dev, told.st_ino))
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        yield from (Path(root, one) for one in folders)
        yield from (Path(root, one) for one in sorted(names) if not one.startswith("."))


def _files(found: Iterable[Path], kinds: tuple[str, ...]) -> tuple[Path, ...]:
    """Those that hold text. A link to a file that is not there is refused: less would be read, and nobody told."""
    files = []
    for path in found:
        if not kind(path, kinds):
            continue
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path}: is a link to a file that is not there. Bring the file back, or remove the link."
            )
        if path.is_file():
            files.append(path)
    return tuple(files)


def _parts(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts


def _split_of(path: Path, folder: Path) -> str:
    """'train' for train.jsonl, train-00000-of-00010.parquet and train/0.jsonl; else ''."""
    for part in _parts(path, folder):
        word = re.split(r"[-.]", part, maxsplit=1)[0]
        if word in SPLITS:
            return word
    return ""


def _pinned(name: str, config: str | None, revision: str | None) -> Hub:
    """Asks the Hub which commit a branch stands at: prepared text is keyed by content."""
    if revision and re.fullmatch("[0-9a-f]{40}", revision):
        return Hub(name, config, revision)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        found = HfApi().dataset_info(name, revision=revision, timeout=20).sha
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as reason:
        raise DataError(
            f"{name}: neither a path here (looked in {Path.cwd()}) nor a dataset that the Hugging "
            f"Face Hub gives now ({type(reason).__name__}). Correct the path, or check the network; "
            "offline, give a copy in the local cache as 'owner/name@<40 hex digits of its commit>'."
        ) from reason
    return Hub(name, config, str(found))
