"""Checks what was committed under a folder again: every manifest, every byte."""

from __future__ import annotations

from pathlib import Path

from limbeck import files
from limbeck.cache import format as form
from limbeck.errors import CacheMismatch, Damaged, LimbeckError
from limbeck.progress import progress


def verify(folder: Path) -> str:
    """Verifies all committed folders at or below `folder`; raises Damaged that names every wrong file.

    Also what a cache says of itself, which stands beside its shards.
    """
    if not folder.is_dir():
        raise LimbeckError(f"There is no folder {folder}.")
    found = _committed(folder)
    if not found:
        raise LimbeckError(f"{folder} holds nothing committed: no {files.MANIFEST} is below it.")
    wrong, size, count = [], 0, 0
    with progress("verify (folders)", len(found)) as bar:
        for path in found:
            try:
                manifest = files.verify(path)
            except Damaged as reason:
                wrong.append(str(reason))
            else:
                count += len(manifest.files)
                size += sum(entry["size"] for entry in manifest.files.values())
            bar.advance(1)
    for path in sorted(folder.rglob(form.ABOUT)):
        try:
            form.read_about(path.parent)
        except (Damaged, CacheMismatch) as reason:
            wrong.append(str(reason))
    if wrong:
        raise Damaged(
            "\n".join([f"{len(wrong)} damaged, of {len(found)} committed folders:", *wrong])
        )
    return f"{len(found)} committed folders, {count} files, {size:,} bytes: each as it was written."


def _committed(folder: Path) -> list[Path]:
    """Every folder with a manifest, but those in one: there it is a file as any other, whatever it says."""
    found = list[Path]()
    for path in sorted(one.parent for one in folder.rglob(files.MANIFEST)):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and not any(path.is_relative_to(outer) for outer in found):
            found.append(path)
    return found
