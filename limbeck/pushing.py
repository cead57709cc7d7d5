"""An exported student onto the Hugging Face Hub: one commit that holds all of it, looked at again when it is there."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_raise_for_status
from huggingface_hub.utils._validators import validate_repo_id
from huggingface_hub.utils.tqdm import disable_progress_bars

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.folder import Folder
from limbeck.progress import say
from limbeck.recarding import CARD

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
_MODELS = (*_WEIGHTS, ".gguf", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".ckpt")
# Folders and addresses that are nobody's business; those of the Hub itself are left out.
_OWN = re.compile(
    r"(?<![\w./~:-])(?:/|~/)(?:[\w.+-]+/)+[\w.+-]+|\b[A-Z]:\\\\?[^\s'\"`)]+|\bhttps?://[^\s'\"`)>\]]+"
)


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
        if target.private and not api.model_info(made.repo_id).private:
            raise LimbeckError(
                f"push: {target.name} is there already, and everybody can read it. Leave --private out, or make it private there first."
            )
        with _branch(api, made.repo_id, target.branch) as fresh:
            there = _there(api, made.repo_id, target.branch)
            before = _pushed_before(api, made.repo_id, target.branch, there)
            if before is None and not fresh and not target.replace:
                _check_replaced(target.name, there, names)
            done = api.create_commit(
                made.repo_id,
                operations=[
                    *(CommitOperationAdd(name, folder / name) for name in names),
                    *map(CommitOperationDelete, _old(there, names, before, fresh=fresh)),
                ],
                commit_message=f"Limbeck: {_title(folder)}",
                revision=target.branch,
            )
        _compare(folder, names, _there(api, made.repo_id, done.oid), target.name)
    say(f"{target.name} holds all of it, as commit {done.oid}.")
    return str(done.commit_url)


@contextmanager
def _branch(api: HfApi, name: str, branch: str | None) -> Iterator[bool]:
    """Makes a branch where it is not there, and takes it away again where nothing comes of it. Gives whether it is new."""
    fresh = False
    if branch:
        try:
            api.create_branch(name, branch=branch)
            fresh = True
        except HfHubHTTPError as reason:
            if reason.response is None or reason.response.status_code != 409:
                raise
    try:
        yield fresh
    except BaseException:
        if fresh and branch:
            api.delete_branch(name, branch=branch)
        raise


def _old(
    there: dict[str, RepoFile], names: list[str], before: list[str] | None, *, fresh: bool
) -> list[str]:
    """What goes away: of a branch that is a new copy all that was copied; else weights of an earlier push, and no other file."""
    if fresh:
        return [name for name in there if name not in names and name != ".gitattributes"]
    old = [
        name
        for name in there
        if name.endswith(_WEIGHTS) and name not in names and name in (before or [])
    ]
    if old:
        say(f"takes away what an earlier push left there: {', '.join(old)}")
    return old


def _pushed_before(
    api: HfApi, name: str, revision: str | None, there: dict[str, RepoFile]
) -> list[str] | None:
    """The files of an export that limbeck pushed there; None where what is there is none."""
    if files.MANIFEST not in there:
        return None
    address = f"{api.endpoint}/{name}/resolve/{quote(revision or 'main', safe='')}/{files.MANIFEST}"
    answer = get_session().get(address, headers=build_hf_headers(), follow_redirects=True)
    hf_raise_for_status(answer)
    try:
        told = files.parse_sealed(answer.content, address)
    except LimbeckError:
        return None
    return list(told["files"]) if told.get("about", {}).get("kind") == "export" else None


def _exported(what: Path, control: bool) -> Path:
    """The folder to push: that of a run's student or control, or one that was exported."""
    run = Folder(what)
    if (what / "students").is_dir() and not run.export.is_dir():
        names = ", ".join(sorted(one.name for one in (what / "students").iterdir()))
        raise LimbeckError(
            f"{what} has several students; push one of {what / 'students'}, each under a name of its own: {names}."
        )
    if run.recipe.is_file():
        place = run.control.export if control else run.export
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
    token = get_token()
    if token is not None and not token.isascii():
        raise LimbeckError("push: the token holds characters that no token has. Set it again.")
    if token is None:
        raise LimbeckError(
            "push: nobody is logged in. Log in with 'hf auth login', or set HF_TOKEN in the environment; "
            "the token needs the right to write."
        )


def _there(api: HfApi, name: str, revision: str | None) -> dict[str, RepoFile]:
    """The files of a repository."""
    found = api.list_repo_tree(name, recursive=True, revision=revision)
    return {one.path: one for one in found if isinstance(one, RepoFile)}


def _check_replaced(name: str, there: dict[str, RepoFile], names: list[str]) -> None:
    """A mistyped name must not put one model over another."""
    models = [one for one in there if one.endswith(_MODELS)]
    if models:
        raise LimbeckError(
            f"push: {name} holds a model that limbeck did not push ({models[0]} and {len(there) - 1} files more); "
            f"{len(names)} files would go over it. Choose another name, a new --branch, or say --replace."
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
    """The first heading of the card, behind its metadata."""
    text = (folder / CARD).read_text(encoding="utf-8")
    lines = REGEX_YAML_BLOCK.sub("", text, count=1).splitlines()
    return next((line[2:].strip() for line in lines if line.startswith("# ")), folder.name)


def _tell_paths(folder: Path) -> None:
    """Says which folders and servers of its maker the card names: the recipe is in it, and others will read it."""
    text = (folder / CARD).read_text(encoding="utf-8")
    own = {str(Path.home()), str(Path.cwd())} - {"/"}
    found = {place for place in own if place in text} | set(_OWN.findall(text))
    found = {place for place in found if not place.startswith(constants.ENDPOINT)}
    if found:
        shown = sorted(found)
        more = f" and {len(shown) - 5} more" if len(shown) > 5 else ""
        say(f"note: the card names folders or servers of yours: {', '.join(shown[:5])}{more}.")


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
        raise LimbeckError(f"push: {name}: {_refusal(reason)}") from reason
    except httpx2.HTTPError as reason:
        raise LimbeckError(
            f"push: the Hub at {constants.ENDPOINT} was not reached ({type(reason).__name__}). Push again; "
            "what was sent is not sent again."
        ) from reason
    except RuntimeError as reason:  # of an upload: what went wrong is its cause
        cause = reason.__cause__
        told = _refusal(cause) if isinstance(cause, HfHubHTTPError) else f"{reason} ({cause})"
        raise LimbeckError(f"push: {name}: {told}") from reason
    except (ValueError, OSError) as reason:
        raise LimbeckError(f"push: {name}: {reason}") from reason


def _refusal(reason: HfHubHTTPError) -> str:
    """What the Hub answered, in its own words where it has any, and what helps."""
    code = reason.response.status_code if reason.response is not None else 0
    mend = {
        401: "The token is not valid: 'hf auth login' again.",
        403: "This login may not write there: use a token that may, or another owner.",
        409: "Somebody else pushed at the same time: push again.",
        413: "The Hub takes no files of this size here.",
    }.get(
        code,
        "Push again later; what was sent is not sent again." if code == 429 or code >= 500 else "",
    )
    own = f" ({reason.server_message.strip()[:300]})" if reason.server_message else ""
    return f"the Hub answered {code}{own}. {mend}".rstrip()
