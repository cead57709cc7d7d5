"""B6 and B7: whole optimizer steps, ours from a cache and online, against loops as others write them.

Teacher SmolLM2-135M-Instruct; a student of a third of its layers (10, 64 M parameters; `--every 6`: of a third of its
parameters, 5 layers, 46 M); 4 rows of 512 tokens of our docs a step. Ours computes in bfloat16 with float32 masters, as its recipes
do. The others run as their trainers do by default (float32 parameters under bfloat16 autocast) and, faster, with
parameters, gradients and optimizer in bfloat16 throughout. Freed memory goes the way that the C library finds by itself; `--kept`:
with what our command line asks of it, for all.
"In little memory": ours with `activation_checkpointing` and without `keep_freed_memory`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import peers
import side_by_side as sbs
from step_ground import Ground, Ours, ground

from limbeck import pages
from limbeck.teachers.live import Live

ONCE = ("limbeck cross-entropy", "trl gkd, bfloat16")


def loops(base: Ground, folder: Path) -> dict[str, Callable[[], Any]]:
    """The loops that are raced: ours, and theirs at their default and with everything in the narrow dtype."""
    live = Live(base.teacher)
    found = {
        "limbeck from cache": base.ours(base.cached(folder / "cache"), folder),
        "limbeck online": base.ours(live, folder),
        "limbeck cross-entropy": base.ours(None, folder),
    }
    theirs = {"transformers cross-entropy": "ce"}
    if peers.installed("trl"):
        theirs["trl gkd"] = "gkd"
    for label, kind in theirs.items():
        found[f"{label}, autocast"] = base.theirs(kind, autocast=True)
        found[f"{label}, bfloat16"] = base.theirs(kind, autocast=False)
    return found


def in_little_memory(base: Ground, rounds: int) -> list[dict[str, Any]]:
    """Ours with freed memory given back, for which the process must be a new one: the heap of this one has grown."""
    pages.give_back()
    label = "limbeck online, in little memory"
    with tempfile.TemporaryDirectory() as folder:
        runners = {label: base.ours(Live(base.teacher), Path(folder), twice=True)}
        times = sbs.race(runners, rounds=rounds)
        return [row_of(base, label, times, peak(runners[label]))]


def measured(base: Ground, runners: dict[str, Callable[[], Any]], rounds: int) -> list[Any]:
    """A row a loop."""
    # One round of these is enough to place them; a figure of theirs is that of one round.
    times = sbs.race(runners, rounds=rounds, once=ONCE)
    rows = []
    for label, runner in runners.items():
        row = row_of(base, label, times, peak(runner))
        for ours in ("limbeck from cache", "limbeck online"):
            if ours in times:
                row[f"over {ours}"] = sbs.ratio(times, label, ours)
        rows.append(row)
    return rows


def peak(runner: Callable[[], Any]) -> float:
    """MB of a step at its highest; what ours keeps from one step to the next counts."""
    if isinstance(runner, Ours):
        runner.forget()
    return sbs.peak(runner)


def row_of(base: Ground, label: str, times: Any, megabytes: float) -> dict[str, Any]:
    """What one loop took."""
    cpu = sorted(one.cpu for one in times[label])[len(times[label]) // 2]
    return {
        "loop": label,
        "seconds": sbs.seconds(times, label),
        "tokens per CPU second": base.tokens / cpu,
        "peak MB": megabytes,
    }


def main() -> None:
    """Races all loops and writes results/step.json, of another student results/step_<every>.json."""
    reads = argparse.ArgumentParser(description=__doc__)
    reads.add_argument(
        "--quick", action="store_true", help="a tiny teacher, one round, nothing written"
    )
    reads.add_argument("--rounds", type=int, default=3)
    reads.add_argument("--kept", action="store_true", help="freed memory is kept for the next step")
    reads.add_argument("--lean", action="store_true", help="prints what 'in little memory' takes")
    reads.add_argument(
        "--every", type=int, default=3, help="of how many layers a student keeps one"
    )
    asked = reads.parse_args()
    if asked.lean:
        base = ground(quick=asked.quick)
        base.every = asked.every
        print(json.dumps(in_little_memory(base, asked.rounds)))
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--lean"]
    lean = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    if asked.kept:
        pages.keep()
    base = ground(quick=asked.quick)
    base.every = asked.every
    note = (
        f"student of 1 of {base.every} layers, {base.tokens} tokens a step, "
        f"{str(base.dtype).removeprefix('torch.')}; 'in little memory' in a process of its own"
    )
    name = "step" + "_kept" * asked.kept + (f"_{asked.every}" if asked.every != 3 else "")
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(base, loops(base, Path(folder)), 1 if asked.quick else asked.rounds)
    sbs.save(name, rows + json.loads(lean[-1]), note=note, quick=asked.quick)


if __name__ == "__main__":
    main()
