"""Whole-process time of the commands that should answer at once: `limbeck --help` and `limbeck list`."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

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
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=10, help="times that each is started")
    parser.add_argument("--json", type=Path, help="a file to write the seconds to")
    options = parser.parse_args()
    print("| command | wall s | CPU s |\n|---|---|---|")
    found = {}
    for name, arguments in COMMANDS.items():
        found[name] = seconds(arguments, options.number)
        print(f"| {name} | {found[name]['wall']:.2f} | {found[name]['cpu']:.2f} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
