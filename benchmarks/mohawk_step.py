"""A step of each MOHAWK stage beside one of the last, and the memory of the first stage with 9 and with 32 heads.

Steps are those of `limbeck train`: teacher, student, backward pass and optimizer, in turns in one process. Memory is that of a
mixing matrix's term alone, forward and backward on one row, since the number of heads is what it would grow with.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import arms
import hybrid
import side_by_side as sbs
import torch

from limbeck.kept import Heads, Mixing
from limbeck.objectives.mixing_matrix import mixing_matrix
from limbeck.types import Rows

STAGES = ("orient", "align", "whole")
HEADS, WIDTH = (9, 32), 64


def stepping(options: argparse.Namespace, stage: str, work: str) -> Callable[[], Any]:
    """One optimizer step of a stage, as `limbeck train` takes it."""
    options.work = work
    name = {"mamba2": "mamba2, spread, 1 + 2 + 3", "discrete": "discrete, spread, 1 + 2 + 3"}
    tree = hybrid.recipe(options, name[options.mixer], 0)
    told = next(one for one in tree["stages"] if one["name"] == stage)
    told |= {"rows_per_step": options.rows_per_step, "micro_rows": options.rows_per_step}
    told |= {"budget": "1000 steps"}
    told["source"]["text"]["length"] = options.length
    tree |= {"stages": [told], "name": stage}
    if options.compile and stage == "whole":
        tree["compute"] = {"compile": True}
    return arms.stepping(tree)


def matrices(heads: int, time: int) -> None:
    """A term of the first stage on one row of random numbers, and its gradient."""
    torch.manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(time, heads, *shape, requires_grad=True)

    edges = torch.tensor([0, time], dtype=torch.int32)
    student = Mixing(some(WIDTH), some(WIDTH), -some().abs(), None, torch.ones(heads), edges)
    plain = [some(WIDTH).detach() for _ in range(3)]
    teacher = Heads(plain[0], plain[1], plain[2], edges, WIDTH**-0.5)
    whole = torch.zeros(time, dtype=torch.int64)
    rows = Rows(whole, torch.ones(time), whole, whole)
    mixing_matrix(student, teacher, rows).sum().backward()


def memory(heads: int, time: int) -> float:
    """MB of a process that computes one such term, at its highest, above what it had before."""
    return sbs.told_by_itself(__file__, "--heads", str(heads), "--time", str(time))


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a stage, then a row a number of heads."""
    with tempfile.TemporaryDirectory() as work:
        runners = {stage: stepping(options, stage, work) for stage in STAGES}
        times = sbs.race(runners, rounds=options.rounds)
    tokens = options.rows_per_step * options.length
    found: list[dict[str, Any]] = [
        {
            "what": f"stage {stage}",
            "seconds": sbs.seconds(times, stage),
            "tokens/s": tokens / sbs.seconds(times, stage),
            "of the last stage": sbs.ratio(times, stage, "whole"),
        }
        for stage in STAGES
    ]
    for heads in HEADS:
        whole = heads * options.time**2 * 4 / 1e6
        row = {"what": f"matrices of {heads} heads, {options.time} tokens"}
        found.append(row | {"MB": memory(heads, options.time), "MB of one side whole": whole})
    return found


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="memory of short rows alone")
    parser.add_argument("--heads", type=int, help="prints MB of the matrices of so many heads")
    parser.add_argument("--time", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rows-per-step", type=int, default=4)
    parser.add_argument("--mixer", choices=["mamba2", "discrete"], default="mamba2")
    parser.add_argument("--compile", action="store_true", help="compiles blocks in the last stage")
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="../shared/data/text")
    parser.set_defaults(tokens=131_072, rows=2)
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.heads:
        print(json.dumps(sbs.peak(lambda: matrices(options.heads, options.time))))
        return
    if options.quick:
        rows = [{"what": f"{heads} heads", "MB": memory(heads, 64)} for heads in HEADS]
        sbs.save("mohawk_step", rows, quick=True)
        return
    note = f"{options.mixer}, {options.rows_per_step} rows of {options.length} tokens"
    sbs.save("mohawk_step", measured(options), note=note)


if __name__ == "__main__":
    main()
