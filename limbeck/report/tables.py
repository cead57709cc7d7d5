"""The files of an evaluation: which of a folder's are ours and whole, and what each has to hold. Reads files only, needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import files
from limbeck.errors import Damaged
from limbeck.report import speeds

MODELS, SAMPLES, TOKENS, LAYERS = "models", "samples", "tokens", "layers"
"""Names of files: of sizes by model, and of three that hold no figures by model."""
ABOUT = ("command", "source", "rows", "length")
"""What a table of figures says of how they were measured."""
_HELD: dict[str, tuple[str, ...]] = {
    SAMPLES: ("prompt", "models"),
    TOKENS: ("tokens",),
    LAYERS: ("students",),
    speeds.NAME: ("sizes",),
}


def paths(place: Path) -> list[Path]:
    """The JSON files of a folder by name, but for hidden ones: a killed process leaves those half written."""
    return sorted(path for path in place.glob("*.json") if not path.name.startswith("."))


def read(place: Path) -> dict[str, dict[str, Any]]:
    """{name: what it holds} of an evaluation's files; what somebody else put beside them is passed over."""
    found = {}
    for path in paths(place):
        wanted = _HELD.get(path.stem)
        told = _whole(path, files.read_json(path), wanted) if wanted else table(path, ABOUT)
        if told is not None:
            found[path.stem] = told
    return found


def table(path: Path, about: Sequence[str]) -> dict[str, Any] | None:
    """A file of figures by model, which says what it measures; None where it does not, and is none of ours."""
    told = files.read_json(path)
    ours = isinstance(told, dict) and "measure" in told
    return _whole(path, told, ("models", *about)) if ours else None


def _whole(path: Path, told: Any, wanted: Sequence[str]) -> dict[str, Any]:
    """What a file of ours holds; raises Damaged where that lacks one of these keys."""
    for key in wanted:
        if not isinstance(told, dict) or key not in told:
            raise Damaged(
                f"{path} has no '{key}', which is written there. Remove the file, and run 'limbeck evaluate' again."
            )
    return dict(told)


def figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """{measure: {model: {name: value}}} of those files that are tables of figures."""
    return {name: told["models"] for name, told in found.items() if name not in _HELD}


def models(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All models of these tables, in the order in which their sizes are told, then as they come."""
    every = [tables.get(MODELS, {}), *tables.values()]
    return list(dict.fromkeys(model for rows in every for model in rows))
