"""A step of a low-rank clone beside a plain distillation step of the same student, and the memory that each takes.

Both have the live teacher, cross-entropy and forward KL; the clone has every clone term besides, and computes its
weights from the teacher's. Time turn by turn in one process; memory in a process for each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import arms
import clone
import side_by_side as sbs

ARMS = {"clone": "clone", "plain": "random, labels and KL"}


def stepping(options: argparse.Namespace, label: str, work: str) -> Callable[[], Any]:
    """One optimizer step of an arm, as `limbeck train` takes it."""
    options.work = work
    tree = clone.recipe(options, ARMS[label], 0)
    stage = tree["stages"][0]
    stage |= {"rows_per_step": options.rows_per_step, "micro_rows": options.rows_per_step}
    stage["source"]["text"]["length"] = options.length
    stage["budget"] = "1000 steps"
    if options.twice and label == "clone":
        tree["compute"] = {"activation_checkpointing": True}
    return arms.stepping(tree)


def memory(label: str) -> float:
    """MB of a process that takes steps of one arm, at its highest, above what it had before a model was loaded."""
    return sbs.told_by_itself(__file__, "--memory", label, *sys.argv[1:])


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row an arm."""
    with tempfile.TemporaryDirectory() as work:
        runners = {label: stepping(options, label, work) for label in ARMS}
        times = sbs.race(runners, rounds=options.rounds)
    tokens = options.rows_per_step * options.length
    return [
        {
            "what": label,
            "seconds": sbs.seconds(times, label),
            "tokens/s": tokens / sbs.seconds(times, label),
            "of plain": sbs.ratio(times, "plain", label),
            "MB": memory(label),
        }
        for label in ARMS
    ]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--memory", choices=list(ARMS), help="prints MB of one arm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument(
        "--twice", action="store_true", help="activation checkpointing in the clone"
    )
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="../shared/data/text")
    parser.set_defaults(tokens=1, rows=2, learning_rate=None)
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.memory:
        with tempfile.TemporaryDirectory() as work:

            def twice() -> None:
                step = stepping(options, options.memory, work)
                step()
                step()

            print(json.dumps(sbs.peak(twice)))
        return
    note = f"{options.rows_per_step} rows of {options.length} tokens"
    sbs.save("clone_step", measured(options), note=note)


if __name__ == "__main__":
    main()
