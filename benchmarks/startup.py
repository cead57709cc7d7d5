"""Whole-process time of the commands that should answer at once: `limbeck --help` and `limbeck list`."""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import side_by_side as sbs

COMMANDS = {
    "python, nothing else": ["-c", "pass"],
    "limbeck --help": ["-m", "limbeck", "--help"],
    "limbeck list": ["-m", "limbeck", "list"],
}


def seconds(arguments: list[str], number: int) -> dict[str, float]:
    """Median wall and CPU seconds of a fresh interpreter."""
    wall, computed = [], []
    for _ in range(number):
        begun, before = time.perf_counter(), os.times()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        wall.append(time.perf_counter() - begun)
        children = after.children_user + after.children_system
        computed.append(children - before.children_user - before.children_system)
    return {"wall": statistics.median(wall), "cpu": statistics.median(computed)}


def main() -> None:
    """Prints the medians, and writes results/startup.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=3, help="times that each is started")
    parser.add_argument("--quick", action="store_true", help="once each, nothing written")
    options = parser.parse_args()
    commands = COMMANDS
    if Path("models/SmolLM2-135M-Instruct").is_dir():  # 'limbeck fetch smollm2' brings it
        recipe = "recipes/quickstart.yaml"
        commands = COMMANDS | {f"limbeck show {recipe}": ["-m", "limbeck", "show", recipe]}
    if importlib.util.find_spec("trl") is not None:
        commands = commands | {"trl --help": ["-m", "trl.cli.main", "--help"]}
    rows = []
    for name, arguments in commands.items():
        found = seconds(arguments, 1 if options.quick else options.number)
        rows.append({"command": name, "wall seconds": found["wall"], "CPU seconds": found["cpu"]})
    sbs.save("startup", rows, note="median of fresh processes", quick=options.quick)


if __name__ == "__main__":
    main()
