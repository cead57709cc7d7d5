"""What a tracker is told of the run, and what it must be able to do."""

from __future__ import annotations

import importlib.util
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from limbeck.errors import RecipeError


@dataclass(frozen=True)
class Tracked:
    """One arm of a run as a tracker sees it.

    title: the run's name, such as 'quickstart/control'. log: its log.jsonl. settings: the recipe, without `track`.
    at: the first step that will be told now; what an earlier process told from there on is void.
    """

    title: str
    group: str
    log: Path
    settings: dict[str, Any]
    at: int = 0

    @property
    def place(self) -> Path:
        """Where trackers of this arm keep their files."""
        return self.log.parent / "trackers"


class Tracker(Protocol):
    """Is told lines in the order of their steps, then the final figures, then closed."""

    @property
    def last(self) -> int:
        """The last step that its tracked run holds already, below `at`; 0 for none."""
        ...

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """Takes the figures of one logged step, counted through all stages."""
        ...

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Takes what was measured at the end, after the last step."""
        ...

    def close(self) -> None:
        """Makes everything safe."""
        ...


def needs(package: str, extra: str) -> None:
    """Raises where a package is not installed, naming the extra that brings it. Imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise RecipeError(
            f"track: '{extra}' needs the package {package}, which is not installed. Install it with "
            f"pip install 'limbeck[{extra}]', or take it out of 'track'."
        )


class Kept:
    """What a tracker must know again after a resume: the id of its tracked run, and the last step told."""

    def __init__(self, tracked: Tracked, name: str) -> None:
        self._path = tracked.place / f"{name}.json"
        self.id = uuid.uuid4().hex
        self.last = 0
        self.known = self._path.is_file()
        if self.known:
            found = json.loads(self._path.read_bytes())
            self.id, self.last = found["id"], found["last"]

    def keep(self, *, last: int) -> None:
        """Writes it: whole or not at all, and not synced, since a lost line would only be told again."""
        self.last = last
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps({"id": self.id, "last": last}), encoding="utf-8")
        partial.replace(self._path)


def flat(settings: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested settings as `stages.0.budget: 300 steps`."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        inner = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inner, dict) and inner:
            found |= flat({str(k): v for k, v in inner.items()}, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = str(value)
    return found
