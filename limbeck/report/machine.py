"""Charts of what the machine did while a run worked, of telemetry.jsonl: how busy it was, and what its memory held."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from limbeck.report import pages

Line = dict[str, Any]
_POINTS = 600
# Okabe and Ito's; the page makes the first two lighter in the dark.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_DASHES = ("solid", "dot", "dash", "dashdot")


def read(run: Path) -> list[Line]:
    """The samples of telemetry.jsonl by time, each with those of its values that are numbers.

    What a kill or a full disk cut short is passed over, since nothing depends on it. Two commands at once write in turns.
    """
    path = run / "telemetry.jsonl"
    if not path.is_file():
        return []
    found = []
    for text in path.read_bytes().split(b"\n"):
        try:
            found.append(json.loads(text, parse_int=float))
        except (ValueError, RecursionError):
            continue
    lines = [_numbers(line) for line in found if isinstance(line, dict)]
    return sorted((line for line in lines if "time" in line), key=lambda line: line["time"])


def _numbers(line: Line) -> Line:
    gpus = line.get("gpus")
    plain: Line = {key: value for key, value in line.items() if key != "gpus" and _is_one(value)}
    if isinstance(gpus, list):
        plain["gpus"] = [_numbers(gpu) if isinstance(gpu, dict) else {} for gpu in gpus]
    return plain


def _is_one(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def charts(lines: list[Line]) -> list[tuple[str, go.Figure]]:
    """Utilisation, memory, and of GPUs power and temperature, over the minutes in which anything was measured."""
    if len(lines) < 2:
        return []
    drawn = [
        _chart(lines, "Utilisation", "% in use", _busy),
        _chart(lines, "Memory", "GB", _memory),
        _chart(lines, "Power of GPUs", "W", _of_gpus("watts")),
        _chart(lines, "Temperature of GPUs", "°C", _of_gpus("celsius")),
    ]
    return [one for one in drawn if one is not None]


def _busy(line: Line) -> dict[str, float]:
    gpus = _of_gpus("utilisation")(line).items()
    own = {"all cores": 100 * line["cpu"]} if "cpu" in line else {}
    return own | {name: 100 * value for name, value in gpus}


def _memory(line: Line) -> dict[str, float]:
    names = {"this process": "memory_gigabytes", "the machine": "machine_memory_gigabytes"}
    own = {name: line[key] for name, key in names.items() if key in line}
    return own | _of_gpus("memory_gigabytes")(line)


def _of_gpus(key: str) -> Callable[[Line], dict[str, float]]:
    def found(line: Line) -> dict[str, float]:
        gpus = enumerate(line.get("gpus", ()))
        return {f"GPU {number}": gpu[key] for number, gpu in gpus if key in gpu}

    return found


def _chart(
    lines: list[Line], title: str, unit: str, values: Callable[[Line], dict[str, float]]
) -> tuple[str, go.Figure] | None:
    curves: dict[str, tuple[list[float], list[float]]] = {}
    each = -(-len(lines) // _POINTS)
    for start in range(0, len(lines), each):
        group = lines[start : start + each]
        minutes = (group[0]["time"] - lines[0]["time"]) / 60
        told = [values(line) for line in group]
        for name in dict.fromkeys(name for one in told for name in one):
            some = [one[name] for one in told if name in one]
            xs, ys = curves.setdefault(name, ([], []))
            xs.append(minutes)
            ys.append(sum(some) / len(some))
    if not curves:
        return None
    figure = go.Figure()
    for number, (name, (xs, ys)) in enumerate(curves.items()):
        line = {"color": _COLOURS[number % 7], "width": 2, "dash": _DASHES[number % 4]}
        figure.add_scatter(x=xs, y=ys, mode="lines", name=name, line=line)
    figure.update_layout(
        title=title,
        xaxis_title="minutes since it began",
        yaxis_title=unit,
        yaxis_rangemode="tozero",
        **pages.LAYOUT,
        hovermode="x unified",
        showlegend=True,
        legend={"orientation": "h", "y": 1.12, "x": 1, "xanchor": "right"},
    )
    means = ", ".join(f"{name} {sum(ys) / len(ys):,.1f}" for name, (_, ys) in curves.items())
    return f"{title} over time, in {unit}; on average: {means}", figure
