"""The files of an evaluation: which of a folder's are ours and whole, and what each has to hold. Reads files only, needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck import checked, files
from limbeck.report import shapes, speeds

MODELS, SAMPLES, TOKENS, LAYERS = "models", "samples", "tokens", "layers"
"""Names of files: of sizes by model, and of three that hold no figures by model."""
ABOUT = ("command", "source", "rows", "length")
"""What a table of figures says of how they were measured."""
_HELD: dict[str, Any] = {
    SAMPLES: shapes.Samples,
    TOKENS: shapes.Tokens,
    LAYERS: shapes.Layers,
    speeds.NAME: shapes.Speed,
}


def paths(place: Path) -> list[Path]:
    """The JSON files of a folder by name, but for hidden ones: a killed process leaves those half written."""
    return sorted(path for path in place.glob("*.json") if not path.name.startswith("."))


def read(place: Path) -> dict[str, dict[str, Any]]:
    """{name: what it holds} of an evaluation's files; what somebody else put beside them is passed over."""
    found = {}
    for path in paths(place):
        wanted = _HELD.get(path.stem)
        told = (
            checked.read(path, wanted, shapes.AGAIN) if wanted else table(path, shapes.MeasuredRows)
        )
        if told is not None:
            found[path.stem] = dict(told)
    return found


def table(path: Path, shape: Any) -> dict[str, Any] | None:
    """A file of figures by model, which says what it measures; None where it does not, and is none of ours."""
    told = files.read_json(path)
    ours = isinstance(told, dict) and "measure" in told
    return dict(checked.value(told, shape, str(path), shapes.AGAIN)) if ours else None


def figures(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """{measure: {model: {name: value}}} of those files that are tables of figures."""
    return {name: told["models"] for name, told in found.items() if name not in _HELD}


def models(tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All models of these tables, in the order in which their sizes are told, then as they come."""
    every = [tables.get(MODELS, {}), *tables.values()]
    return list(dict.fromkeys(model for rows in every for model in rows))
