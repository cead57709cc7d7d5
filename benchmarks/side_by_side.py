"""Ours and theirs in one process, on the same tensors, turn by turn: what every benchmark here is made of.

The machine may be shared, so the figure that counts is the ratio of process CPU seconds within a round, and the
median of those ratios over the rounds. Wall seconds stand beside it.
"""

from __future__ import annotations

import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from limbeck import pages, provenance

RESULTS = Path(__file__).parent / "results"
_PEERS = ("torch", "transformers", "trl", "liger-kernel", "lm-eval", "datasets", "numpy")


@dataclass(frozen=True)
class Round:
    """Seconds of one call: of this process on all its cores, and by the clock."""

    cpu: float
    wall: float


def timed(function: Callable[[], Any]) -> Round:
    """One call; a CUDA device is waited for."""
    _settle()
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    _settle()
    return Round(time.process_time() - cpu, time.perf_counter() - wall)


def race(
    runners: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 5,
    warm: bool = False,
    once: Container[str] = (),
) -> dict[str, list[Round]]:
    """Each runner once to warm up (unless they are warm), then `rounds` rounds in which each runs once, in turn.

    once: those that run in the first round only, because they are slow and no close race.
    """
    if not warm:
        for function in runners.values():
            function()
    times: dict[str, list[Round]] = {label: [] for label in runners}
    for number in range(rounds):
        for label, function in runners.items():
            if number == 0 or label not in once:
                gc.collect()
                times[label].append(timed(function))
    return times


def ratio(times: Mapping[str, Sequence[Round]], above: str, below: str) -> float:
    """The median over rounds that both ran in of the CPU seconds of one over those of the other (wall on CUDA)."""
    wall = torch.cuda.is_available()
    pairs = zip(times[above], times[below], strict=False)
    return statistics.median(a.wall / b.wall if wall else a.cpu / b.cpu for a, b in pairs)


def seconds(times: Mapping[str, Sequence[Round]], label: str) -> float:
    """The median of its wall seconds."""
    return statistics.median(one.wall for one in times[label])


def peak(function: Callable[[], Any]) -> float:
    """MB that a call needs at its highest above what is resident before it; call it once before, to warm up."""
    gc.collect()
    _settle()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    pages.trim()
    if not pages.forget_peak():
        raise SystemExit("This system does not tell the peak of memory; nothing is measured.")
    before = pages.resident()
    function()
    return (pages.peak() - before) / 1e6


def told_by_itself(script: str, *words: str) -> float:
    """The number that a script prints last, in a process of its own."""
    command = [sys.executable, script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def save(
    name: str, rows: Sequence[Mapping[str, Any]], *, note: str = "", quick: bool = False
) -> None:
    """Prints the rows as a table; unless quick, also writes results/<name>.json with versions and machine."""
    table = Table(title=name, caption=note or None)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    for key in keys:
        table.add_column(key, justify="left" if isinstance(rows[0].get(key), str) else "right")
    for row in rows:
        table.add_row(*(_shown(row.get(key, "")) for key in keys))
    Console(width=max(100, 16 * len(keys))).print(table)
    if quick:
        return
    RESULTS.mkdir(exist_ok=True)
    whole = {
        "name": name,
        "note": note,
        "machine": machine(),
        "versions": provenance.versions(_PEERS),
        "rows": list(rows),
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The processor or device, its instructions for bfloat16, and threads."""
    able = torch.cpu.get_capabilities()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _processor()
    native = [name for name in ("avx512_bf16", "amx_bf16", "arm_bf16") if able.get(name)]
    return {"device": device, "bfloat16": native, "threads": torch.get_num_threads()}


def _shown(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), "unknown")
