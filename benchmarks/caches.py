"""What a token takes in each kind of cache, and how much faster it is read than a student learns from it.

One text is recorded once a kind, by the teacher that a recipe names, through `limbeck record`'s own code. Bytes are those
of the shards' planes over recorded tokens; a reader serves micro-batches as training does, in another order than
they were recorded in. The learner is the recipe's student in a whole optimizer step on the same rows.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import save

from limbeck import arm, assembly, fitting, linking, loading, recorded, run
from limbeck.cache.read import CacheReader
from limbeck.featuring import folder
from limbeck.recipe import Recipe
from limbeck.training import links, loop
from limbeck.training.loop import Loop

ALL_TAPS = {"feature_mse": {"at": "all"}}
LAST_TAP = {"feature_mse": {"at": "norm"}}
# The settings of the cache, and what is learned besides forward KL.
KINDS: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "top 16 and rest": ({"kind": "topk+rest", "k": 16}, []),
    "top 64 and rest": ({"kind": "topk+rest", "k": 64}, []),
    "top 128 and rest": ({"kind": "topk+rest", "k": 128}, []),
    "rs 50": ({"kind": "rs", "samples": 50}, []),
    "threshold 1/50": ({"kind": "sample"}, []),
    "top 16, 1 tap, bfloat16": ({"kind": "topk+rest", "k": 16}, [LAST_TAP]),
    "top 16, 1 tap, int8, a quarter": (
        {"kind": "topk+rest", "k": 16, "feature_numbers": "int8", "feature_share": 0.25},
        [LAST_TAP],
    ),
    "top 16, a tap a block, bfloat16": ({"kind": "topk+rest", "k": 16}, [ALL_TAPS]),
}


def recipe(options: argparse.Namespace, name: str, place: Path) -> Recipe:
    """The run of one kind: a few steps over the rows that are recorded."""
    kept, terms = KINDS[name]
    steps = -(-options.rows // 2)
    text = {"path": options.text, "split_at": "^ = [^=]+ = $", "length": options.length}
    text |= {"separator": "<|endoftext|>", "prepared": str(place / "prepared")}
    tree = {
        "name": "caches",
        "teacher": {"cached": {"model": options.teacher, "path": str(place / name), **kept}},
        "student": {"pruned": {"layers": options.layers}},
        "stages": [
            {
                "name": "distil",
                "source": {"text": text},
                "objective": ["forward_kl", *terms],
                "budget": f"{steps} steps",
                "rows_per_step": 2,
                "micro_rows": 2,
            }
        ],
        "checkpoints": {"every": 1_000_000},
        "runs": str(place / "runs" / name),
    }
    return fitting.check(loading.build(copy.deepcopy(tree)))


def size(reader: CacheReader, tokens: int) -> float:
    """Bytes of a cache's planes for each of so many tokens."""
    planes = (reader.path / "shards").glob("*/planes.safetensors")
    return sum(path.stat().st_size for path in planes) / tokens


def learner(asked: Recipe) -> Loop:
    """The recipe's student at its first step, as `limbeck train` makes it."""
    base, world = run.begun(asked)
    place = run.Folder(Path(asked.runs) / asked.name)
    place.path.mkdir(parents=True)
    (one,) = run.arms(base, world, place, run.Stop())
    found = arm._begun(one, 0, 0)
    assert found is not None
    return found


def measured(options: argparse.Namespace, name: str, place: Path) -> dict[str, Any]:
    """Bytes, and the rates of reader and learner."""
    asked = recipe(options, name, place)
    run.record(asked, rank=0, world=1)
    base = assembly.ground(asked)
    source = assembly.stage_source(base, asked.stages[0])
    path = Path(recorded.options(asked)["path"])
    main = CacheReader(path)
    tokens = sum(int(main.recorded(address).sum()) for address in main.addresses)
    taps = [CacheReader(folder(path, tap)) for tap in linking.teacher_taps(asked)]
    job = learner(asked)
    wanted, order = links.wanted([job.functions]), torch.randperm(options.rows).tolist()
    assert job.teacher is not None
    rates: dict[str, list[float]] = {"read": [], "learned": []}
    loop.one_step([job])  # compiles
    for _ in range(options.rounds):
        begun = time.process_time()
        for start in range(0, options.rows, 2):
            job.teacher.signal(source.batch(order[start : start + 2]), wanted)
        rates["read"].append(options.rows * options.length / (time.process_time() - begun))
        begun = time.process_time()
        loop.one_step([job])
        rates["learned"].append(2 * options.length / (time.process_time() - begun))
    read, learned = (statistics.median(rates[key]) for key in ("read", "learned"))
    return {
        "kind": name,
        "bytes/token": size(main, tokens),
        "of features": sum(size(reader, tokens) for reader in taps),
        "read, tokens/s": read,
        "learned, tokens/s": learned,
        "read over learned": read / learned,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one kind, four rows")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--layers", type=int, default=15, help="of the student")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="../shared/data/wikitext2/valid.raw.txt")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.length, options.layers, options.rounds = 4, 32, 2, 1
    with tempfile.TemporaryDirectory() as place:
        names = list(KINDS)[5:6] if options.quick else list(KINDS)
        rows = [measured(options, name, Path(place)) for name in names]
    note = f"{options.rows} rows of {options.length} tokens; rates are tokens a CPU second"
    save("caches", rows, note=note, quick=options.quick)


if __name__ == "__main__":
    main()
