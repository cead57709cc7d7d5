"""Who did what to a run: audit.jsonl in its folder, two lines a command, when it begins and how it ends."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import platform
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from limbeck import files, loading, provenance
from limbeck.errors import Interrupted, LimbeckError
from limbeck.recipe import Recipe

NAME = "audit.jsonl"


@contextlib.contextmanager
def kept(
    command: str, run: Path, recipe: Recipe | None = None, overrides: Sequence[str] = ()
) -> Iterator[None]:
    """Keeps a record of what the block does to a run. Of overrides only the keys: their values are in the recipe.

    recipe: where a command is given one; else that of the run's folder. A folder that is no run gets no record.
    """
    if os.environ.get("RANK", "0") != "0" or (recipe is None and not run.is_dir()):
        yield  # other ranks do what the first one does
        return
    begun = time.monotonic()
    who = {"id": uuid.uuid4().hex[:12], "command": f"limbeck {command}"}
    _add(run, who | {"event": "begun"} | _about(run, recipe, overrides))
    outcome = "stopped by a signal or an error of the program"
    try:
        yield
        outcome = "done"
    except Interrupted:
        outcome = "interrupted; goes on with the same command"
        raise
    except LimbeckError as reason:
        outcome = f"refused: {type(reason).__name__}"  # no more: a message may quote what it found
        raise
    finally:
        seconds = round(time.monotonic() - begun, 3)
        _add(run, who | {"event": "ended", "outcome": outcome, "seconds": seconds, **_made_of(run)})


def _about(run: Path, recipe: Recipe | None, overrides: Sequence[str]) -> dict[str, Any]:
    written = run / "recipe.yaml"
    text = loading.dump(recipe).encode() if recipe else b""
    if recipe is None and written.is_file():
        text = written.read_bytes()
    return {
        "overrides": [one.partition("=")[0] for one in overrides],
        "user": _user(),
        "host": platform.node(),
        "process": os.getpid(),
        "recipe": files.digest(text),
        "code": provenance.commit(),
        "versions": provenance.versions(),
    }


def _made_of(run: Path) -> dict[str, Any]:
    """The fingerprints of models, tokenizer and text that the run's provenance holds, once there is one."""
    path = run / "provenance.json"
    try:
        found = files.read_json(path) if path.is_file() else {}
    except LimbeckError:  # whoever needs it has refused it
        return {}
    return {"prints": found["prints"]} if isinstance(found, dict) and "prints" in found else {}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return str(os.getuid())


def _add(run: Path, line: dict[str, Any]) -> None:
    """Adds a line in one write, so that processes that share the file do not mix theirs."""
    run.mkdir(parents=True, exist_ok=True)
    whole = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **line}
    with (run / NAME).open("ab", buffering=0) as stream:
        stream.write(json.dumps(whole, ensure_ascii=False).encode() + b"\n")
        os.fsync(stream.fileno())
