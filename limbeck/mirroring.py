"""A whole repository of the Hugging Face Hub, or what of it matches patterns, pinned to one commit and checked file by file."""

from __future__ import annotations

import re
import shutil
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from limbeck import checked, files
from limbeck.errors import Damaged, DataError, LimbeckError
from limbeck.folder import beside, locked
from limbeck.progress import progress, say

STATE = "mirror.json"


class _Stopped(TypedDict):
    """What was begun: of which wish, and of which commit."""

    mirror: dict[str, Any]
    commit: str


@dataclass(frozen=True)
class Repository:
    """What to mirror. include, exclude: patterns such as '*.parquet' or 'data/CC-MAIN-2014-49/*'; no include: all."""

    name: str
    kind: Literal["dataset", "model"] = "dataset"
    revision: str | None = None
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """What lies there. files: {path: (bytes, SHA-256 where the Hub tells it, else '')}."""

    commit: str
    files: dict[str, tuple[int, str]]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(size for size, _ in self.files.values())


def listed(wanted: Repository) -> Listed:
    """The files that match, at the commit where the revision stands now. Fetches none of them."""
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    try:
        api = HfApi()
        ask = api.dataset_info if wanted.kind == "dataset" else api.model_info
        found = ask(wanted.name, revision=wanted.revision, files_metadata=True)
    except (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        OSError,
        httpx2.HTTPError,
    ) as reason:
        raise DataError(
            f"{wanted.name}: no {wanted.kind} that the Hugging Face Hub gives now ({type(reason).__name__}). Correct the name, "
            "--kind or --revision, put a token into HF_TOKEN where it is private or gated, or check the network."
        ) from reason
    there = {one.rfilename: one for one in found.siblings or []}
    chosen = filter_repo_objects(
        there, allow_patterns=list(wanted.include) or None, ignore_patterns=list(wanted.exclude)
    )
    told = {}
    for name in sorted(chosen):
        large = there[name].lfs
        told[name] = (there[name].size or 0, large.sha256 if large else "")
    if not told:
        raise DataError(
            f"{wanted.name}: none of its {len(there):,} files matches --include {', '.join(wanted.include) or '*'} without "
            f"--exclude {', '.join(wanted.exclude) or 'anything'}. It has such as: {', '.join(sorted(there)[:5])}."
        )
    for name in told:
        if not _fit(name):
            raise DataError(
                f"{wanted.name}: a file called {ascii(name)[:200]} is not taken. Leave it out with --exclude."
            )
    return Listed(str(found.sha), told)


def _fit(name: str) -> bool:
    """Whether a file may be called so in a mirror: a plain path below it, and neither ours nor huggingface_hub's own."""
    parts = re.split(r"[/\\]", name)
    control = any(unicodedata.category(sign) in ("Cc", "Cs") for sign in name)
    plain = not control and not {"", ".", ".."}.intersection(parts)
    return plain and name != files.MANIFEST and parts[0] != ".cache"


def mirror(wanted: Repository, folder: Path, *, workers: int = 8) -> Path:
    """Fetches what is missing; killed, it goes on with the commit that it began. Finished, it is verified.

    Raises DataError where the folder holds something else, Damaged where a file is not what the Hub says of it.
    """
    asked = _plain(wanted)
    if _finished(folder, asked):
        return folder
    work = folder.parent / f".{folder.name}.mirror"
    with locked(folder.parent, beside(folder), "Wait for it, or give another folder with --to."):
        if _finished(folder, asked):  # by who held the lock until now
            return folder
        commit = _begun(work, asked) or wanted.revision
        found = listed(Repository(wanted.name, wanted.kind, commit, wanted.include, wanted.exclude))
        work.mkdir(parents=True, exist_ok=True)
        files.write_json(work / STATE, {"mirror": asked, "commit": found.commit})
        _check_space(work, found)
        say(f"{wanted.name}@{found.commit}: {len(found.files):,} files, {found.size:,} bytes.")
        _fetch(wanted, found, work / "files", workers)
        _check(work / "files", found)
        shutil.rmtree(work / "files" / ".cache", ignore_errors=True)
        about = {"kind": "mirror", "mirror": asked, "commit": found.commit}
        files.seal(work / "files", about)
        (work / "files").rename(folder)
        files.sync_folder(folder.parent)
        shutil.rmtree(work)
    return folder


def _finished(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether the mirror is there, and whole; another one is refused."""
    if not folder.exists():
        return False
    held = files.verify(folder).about
    if held.get("mirror") != asked:
        raise DataError(
            f"{folder} holds {held.get('mirror', 'something else')}; wanted {asked}. Give another folder with --to."
        )
    return True


def _plain(wanted: Repository) -> dict[str, Any]:
    return asdict(wanted) | {"include": list(wanted.include), "exclude": list(wanted.exclude)}


def _begun(work: Path, asked: dict[str, Any]) -> str | None:
    """The commit that an earlier process began with; the work of another wish is refused."""
    if not (work / STATE).is_file():
        return None
    told = checked.read(work / STATE, _Stopped, f"Remove {work}, and mirror again.")
    if told["mirror"] != asked:
        raise DataError(
            f"{work} is the half of {told['mirror']}; wanted {asked}. Remove it, or give another folder with --to."
        )
    return told["commit"]


def _check_space(work: Path, found: Listed) -> None:
    there = sum(path.stat().st_size for path in work.rglob("*") if path.is_file())
    free = shutil.disk_usage(work).free
    if found.size - there > free:
        raise LimbeckError(
            f"{work}: {found.size - there:,} bytes are missing, and {free:,} are free on that disk. Choose fewer files with "
            "--include, or another place with --to."
        )


def _fetch(wanted: Repository, found: Listed, folder: Path, workers: int) -> None:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot_download(
            wanted.name,
            repo_type=wanted.kind,
            revision=found.commit,
            local_dir=folder,
            # As they were given, at the same commit: a pattern for each file would take the square of their number.
            allow_patterns=list(wanted.include) or None,
            ignore_patterns=list(wanted.exclude),
            max_workers=workers,
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, httpx2.HTTPError) as reason:
        raise DataError(
            f"{wanted.name}: the Hub broke off ({type(reason).__name__}: {str(reason)[:200]}). What is whole stays; the same "
            "command goes on."
        ) from reason


def _check(folder: Path, found: Listed) -> None:
    """Every file as the Hub says that it is; one that is not is removed, so that the next run fetches it again."""
    with progress("check the mirror (files)", len(found.files)) as bar:
        for name, (size, sha256) in found.files.items():
            path = folder / name
            if not path.is_file():
                raise Damaged(
                    f"{path} is missing, though the Hub lists it. Run the same command again."
                )
            there = path.stat().st_size
            digest = files.file_digest(path) if sha256 and there == size else sha256
            if (there, digest) != (size, sha256):
                path.unlink()
                raise Damaged(
                    f"{path}: {there:,} bytes, SHA-256 {digest[:12]}; the Hub says {size:,} and {sha256[:12] or 'nothing'}. "
                    "It was removed; run the same command again."
                )
            bar.advance()
