"""How fast models read prompts and write behind them, as a table for people. Reads files only, needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck import checked
from limbeck.report import shapes

NAME = "generation"
"""Of the file in the folder of an evaluation."""


def read(place: Path) -> dict[str, Any]:
    """What is kept of it in this folder; {} where nothing was measured."""
    path = place / f"{NAME}.json"
    return dict(checked.read(path, shapes.Speed, shapes.AGAIN)) if path.is_file() else {}


def table(kept: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a row for each model at each size; rates of all prompts of a batch together."""
    headings = ["prompt", "model", "reads tokens/s", "first token", "writes tokens/s"]
    sizes: list[dict[str, Any]] = kept.get("sizes", [])
    teachers = {(one["length"], one["batch"]): one for one in sizes if one["model"] == "teacher"}
    beside = bool(teachers) and len(teachers) < len(sizes)
    headings += ["of the teacher's"] * beside + ["keeps", "needs at most"]
    rows, rate = [], "decode_tokens_per_second"
    for one in sizes:
        row = [
            f"{one['length']:,} × {one['batch']}",
            str(one["model"]),
            f"{one['prefill_tokens_per_second']:,.0f}",
            f"{one['first_token_seconds']:.3f} s",
            f"{one['decode_tokens_per_second']:,.1f}",
        ]
        if beside:
            theirs = teachers.get((one["length"], one["batch"]))
            row.append("–" if theirs is None else f"{one[rate] / theirs[rate]:.2f} ×")
        peak = one["peak_bytes"]
        row += [
            f"{one['state_bytes'] / 1e6:,.1f} MB",
            "–" if peak is None else f"{peak / 1e6:,.0f} MB",
        ]
        rows.append(row)
    return headings, rows
