"""Another model card for an exported folder, which is whole before and after, also through a kill."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from limbeck import files

CARD = "README.md"


def recarded(folder: Path, card: str) -> None:
    """Gives an exported folder another model card; the folder is whole before and after.

    Killed in between, it may be away for the moment that a rename takes; `bring_back` puts it in its place again.
    """
    folder = folder.resolve()  # of a link to another place, that place
    if (folder / CARD).read_bytes() == card.encode():
        return
    manifest = files.verify(folder)
    fresh, old = folder.with_name(f".partial-card-{folder.name}"), _aside(folder)
    for left in (fresh, old):
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir()
    for name in manifest.files:
        if name != CARD:
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            _shared(folder / name, fresh / name)
    (fresh / CARD).write_bytes(card.encode())
    files.seal(fresh, manifest.about)
    folder.rename(old)
    fresh.rename(folder)
    files.sync_folder(folder.parent)
    shutil.rmtree(old)


def bring_back(folder: Path) -> None:
    """Puts an export in its place again that a kill in `recarded` left beside it."""
    if _aside(folder).is_dir() and not folder.exists():
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".partial-old-{folder.name}")


def _shared(source: Path, target: Path) -> None:
    """One file under two names, or a copy where the file system has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
