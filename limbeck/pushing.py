"""An exported student onto the Hugging Face Hub: one commit that holds all of it, looked at again when it is there."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.tqdm import disable_progress_bars

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.exporting import CARD
from limbeck.folder import Folder
from limbeck.progress import say

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_OWN_PATH = re.compile(r"(?<![\w./~:-])(?:/(?:home|Users|root|mnt|data|tmp)/|~/)[^\s'\"`,)\]}]*")


@dataclass(frozen=True)
class Target:
    """Where to push. branch: of the repository, made where it is not there. replace: also over what limbeck did not push."""

    name: str
    branch: str | None = None
    private: bool = False
    replace: bool = False


def push(what: Path, target: Target, *, control: bool = False) -> str:
    """Uploads the export of a run (or an exported folder) as one commit; a file that the Hub has already is not sent again.

    Returns the address of the commit. Raises LimbeckError where nothing was exported, the export is damaged, nobody is
    logged in, or the Hub refuses; the repository is then as it was. The token is the Hub's own: of `hf auth login`, or HF_TOKEN.
    """
    folder = _exported(what, control)
    names = [*files.verify(folder).files, files.MANIFEST]
    _check(target.name)
    if not sys.stderr.isatty():
        disable_progress_bars()
    _tell_paths(folder)
    size = sum((folder / name).stat().st_size for name in names)
    say(f"pushes {folder} to {target.name}: {len(names)} files, {size / 1e6:,.1f} MB")
    with _explained(target.name):
        api = HfApi()
        made = api.create_repo(target.name, private=target.private, exist_ok=True)
        if target.branch:
            api.create_branch(made.repo_id, branch=target.branch, exist_ok=True)
        there = _there(api, made.repo_id, target.branch)
        _check_replaced(target, there, names)
        old = [name for name in there if name.endswith(_WEIGHTS) and name not in names]
        done = api.create_commit(
            made.repo_id,
            operations=[
                *(CommitOperationAdd(name, folder / name) for name in names),
                *(CommitOperationDelete(name) for name in old),
            ],
            commit_message=f"Limbeck: {_title(folder)}",
            revision=target.branch,
        )
        _compare(folder, names, _there(api, made.repo_id, done.oid), target.name)
    say(f"{target.name} holds all of it, as commit {done.oid}.")
    return str(done.commit_url)


def _exported(what: Path, control: bool) -> Path:
    """The folder to push: that of a run's student or control, or one that was exported."""
    run = Folder(what)
    if run.recipe.is_file():
        place = run.control.export if control else run.export
        if (what / "students").is_dir() and not place.is_dir():
            raise LimbeckError(
                f"{what} has several students; push one of {what / 'students'}, each under a name of its own."
            )
        if not place.is_dir():
            raise LimbeckError(
                f"{place} is not there: nothing was exported. 'limbeck train' or 'limbeck export {what}' writes it."
            )
        return place
    if not (what / files.MANIFEST).is_file():
        raise LimbeckError(
            f"{what} is neither a run (it has no recipe.yaml) nor an export (no {files.MANIFEST}). "
            "Give a run's folder, such as runs/quickstart."
        )
    if control:
        raise LimbeckError(f"--control is of a run; {what} is one folder.")
    found = files.verify(what).about.get("kind")
    if found != "export":
        raise LimbeckError(
            f"{what} holds a {found or 'folder of another kind'}, wanted an export. Give a run's folder."
        )
    return what


def _check(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as reason:
        raise LimbeckError(f"push: '{name}' is no name of a repository: {reason}") from reason
    if name.count("/") != 1:
        raise LimbeckError(f"push: found '{name}', wanted OWNER/NAME.")
    if constants.HF_HUB_OFFLINE:
        raise LimbeckError("push: HF_HUB_OFFLINE is set, so the Hub is not asked. Unset it.")
    if get_token() is None:
        raise LimbeckError(
            "push: nobody is logged in. Log in with 'hf auth login', or set HF_TOKEN in the environment; "
            "the token needs the right to write."
        )


def _there(api: HfApi, name: str, revision: str | None) -> dict[str, RepoFile]:
    """The files of a repository."""
    found = api.list_repo_tree(name, recursive=True, revision=revision)
    return {one.path: one for one in found if isinstance(one, RepoFile)}


def _check_replaced(target: Target, there: dict[str, RepoFile], names: list[str]) -> None:
    """A mistyped name must not put one model over another."""
    models = [name for name in there if name.endswith(_WEIGHTS)]
    if models and files.MANIFEST not in there and not target.replace:
        raise LimbeckError(
            f"push: {target.name} holds a model that limbeck did not push ({models[0]} and {len(there) - 1} files more); "
            f"{len(names)} files would go over it. Choose another name or --branch, or say --replace."
        )


def _compare(folder: Path, names: list[str], there: dict[str, RepoFile], repository: str) -> None:
    """Raises where a file of the commit is not byte for byte the one here."""
    for name in names:
        found = there.get(name)
        if found is None:
            raise LimbeckError(f"push: {repository} lacks {name} after the commit. Push again.")
        if found.lfs is not None:
            same = found.lfs.sha256 == files.file_digest(folder / name)
        else:
            raw = (folder / name).read_bytes()
            # Git's own name of a file's bytes.
            blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw, usedforsecurity=False)
            same = found.blob_id == blob.hexdigest()
        if not same:
            raise LimbeckError(f"push: {name} in {repository} is not the file here. Push again.")


def _title(folder: Path) -> str:
    """The first heading of the card."""
    lines = (folder / CARD).read_text(encoding="utf-8").splitlines()
    return next((line[2:].strip() for line in lines if line.startswith("# ")), folder.name)


def _tell_paths(folder: Path) -> None:
    """Says which folders of this machine the card names: the recipe is in it, and others will read it."""
    text = (folder / CARD).read_text(encoding="utf-8")
    own = {str(Path.home()), str(Path.cwd())} - {"/"}
    found = {place for place in own if place in text} | set(_OWN_PATH.findall(text))
    if found:
        say(f"note: the card names folders of this machine: {', '.join(sorted(found)[:3])}.")


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """The Hub's refusals in words of what to do."""
    try:
        yield
    except RepositoryNotFoundError as reason:
        raise LimbeckError(
            f"push: the Hub knows no {name} that this login may see. Correct the name, or log in as its owner."
        ) from reason
    except HfHubHTTPError as reason:
        code = reason.response.status_code if reason.response is not None else 0
        mend = {
            401: "The token is not valid: 'hf auth login' again.",
            403: "This login may not write there: use a token that may, or another owner.",
            409: "Somebody else pushed at the same time: push again.",
            413: "The Hub takes no files of this size here.",
        }.get(code, "Push again later; what was sent is not sent again.")
        raise LimbeckError(f"push: {name}: the Hub answered {code}. {mend}") from reason
    except httpx2.HTTPError as reason:
        raise LimbeckError(
            f"push: the Hub at {constants.ENDPOINT} was not reached ({type(reason).__name__}). Push again; "
            "what was sent is not sent again."
        ) from reason
    except ValueError as reason:
        raise LimbeckError(f"push: {name}: {reason}") from reason
