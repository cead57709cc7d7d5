"""What each term adds: half-depth students of one teacher, of equal start, rows and tokens, under more and more terms.

Each arm is a recipe that `limbeck train` would carry out, with its control and export left out. Judged in bits per byte
and by the KL of the teacher to the student, over all ids, on text that nobody was trained on. A seed changes the order
of rows and the choice of tokens. Weights were chosen once, by the size of each term at the start, and not tuned.
Every finished arm is written down, and the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import RESULTS, save

from limbeck import assembly, files, fitting, loading, run
from limbeck.arm import train, trained_student
from limbeck.evaluation._judge import judge
from limbeck.evaluation.agreement import agreement
from limbeck.evaluation.bits_per_byte import bits_per_byte
from limbeck.folder import Folder
from limbeck.recipe import Recipe
from limbeck.training import parallel

FEATURE = {"feature_mse": {"at": "all", "normalised": True, "weight": 0.1}}
RELATION = [
    {"relation_distance": {"at": "norm", "weight": 5.0}},
    {"relation_angle": {"at": "norm", "weight": 10.0}},
]
LAST = {"student": "layers.14", "teacher": "layers.29"}
ATTENTION = {"attention_transfer": {"at": LAST, "weight": 0.1}}
ARMS: dict[str, list[Any]] = {
    "cross-entropy": ["cross_entropy"],
    "forward KL": ["forward_kl"],
    "+ feature": ["forward_kl", FEATURE],
    "+ relation": ["forward_kl", *RELATION],
    "+ attention": ["forward_kl", ATTENTION],
    "all": ["forward_kl", FEATURE, *RELATION, ATTENTION],
}
# Of the first four, so that their spread can be seen.
SEEDS = {"cross-entropy": 3, "forward KL": 3, "+ feature": 3, "+ relation": 3}


def recipe(options: argparse.Namespace, arm: str, seed: int) -> Recipe:
    """The run of one arm."""

    def text(path: str) -> dict[str, Any]:
        how = {"split_at": "^ = [^=]+ = $", "length": 256, "separator": "<|endoftext|>"}
        return {"text": {"path": path, **how}}

    tree = {
        "name": f"{arm.strip('+ ').replace(' ', '-')}-{seed}",
        "seed": seed,
        "teacher": {"live": {"model": options.teacher}},
        "student": {"pruned": {"layers": 15}},
        "stages": [
            {
                "name": "distil",
                "source": text(options.text),
                "objective": ARMS[arm],
                "budget": f"{options.steps} steps",
                "rows_per_step": 2,
                "micro_rows": 2,
                "optimizer": {"learning_rate": 5e-4, "schedule": "cosine", "warmup_ratio": 0.05},
            }
        ],
        "checkpoints": {"every": 1_000_000, "keep_last": 1},
        "evaluate": {"source": text(options.heldout), "rows": options.rows},
        "runs": options.work,
    }
    return fitting.check(loading.build(copy.deepcopy(tree)))


def measured(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Trains and judges one arm."""
    asked = recipe(options, arm, seed)
    base, world = run._begun(asked)
    folder = Folder(Path(asked.runs) / asked.name)
    folder.path.mkdir(parents=True, exist_ok=True)
    (learner,) = run.arms(base, world, folder, run.Stop())
    begun = time.monotonic()
    train([learner])
    seconds = time.monotonic() - begun
    student, tokens = trained_student(learner)
    teacher = assembly.load_teacher(base)
    source = assembly.held_out(base)
    assert teacher is not None
    assert source is not None
    models = {"teacher": teacher, "student": student.to(base.dtype)}
    measures = [(bits_per_byte, {}), (agreement, {})]
    found = judge(
        models, source, measures, rows=options.rows, vocab=base.vocab, device=torch.device("cpu")
    )
    return {
        "arm": arm,
        "seed": seed,
        "bits_per_byte": found["bits_per_byte"]["student"]["bits_per_byte"],
        "kl": found["agreement"]["student"]["kl_to_teacher"],
        "teacher": found["bits_per_byte"]["teacher"]["bits_per_byte"],
        "tokens": tokens,
        "seconds": seconds,
        "objective": ARMS[arm],
    }


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm: means over seeds, and the smallest and largest."""
    rows = []
    for arm in ARMS:
        mine = [one for one in runs if one["arm"] == arm]
        if not mine:
            continue
        row: dict[str, Any] = {"arm": arm, "seeds": len(mine)}
        for name, key in (("bits/byte", "bits_per_byte"), ("KL", "kl")):
            values = [one[key] for one in mine]
            row |= {name: statistics.mean(values)}
            row |= {f"{name} least": min(values), f"{name} most": max(values)}
        rows.append(row)
    return rows


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two steps of two arms")
    parser.add_argument("--steps", type=int, default=64, help="of 2 rows of 256 tokens")
    parser.add_argument("--rows", type=int, default=64, help="held-out rows that judge")
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="../shared/data/wikitext2/valid.raw.txt")
    parser.add_argument("--heldout", default="../shared/data/wikitext2/test.raw.txt")
    parser.add_argument("--work", default="runs/terms")
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.quick:
        options.steps, options.rows, options.work = 2, 2, f"{options.work}-quick"
    settings = f"{options.steps} steps of 2 rows of 256 tokens, {options.rows} held-out rows"
    store = RESULTS / "terms-runs.json"
    known = files.read_json(store) if store.is_file() and not options.quick else {}
    runs: list[dict[str, Any]] = known.get(settings, [])
    plan = [(arm, seed) for seed in range(3) for arm in ARMS if seed < SEEDS.get(arm, 1)]
    for arm, seed in plan[2:3] if options.quick else plan:
        if any((one["arm"], one["seed"]) == (arm, seed) for one in runs):
            continue
        runs.append(measured(options, arm, seed))
        gc.collect()
        if not options.quick:
            files.write_json(store, known | {settings: runs})
            save("terms", table(runs), note=settings, quick=False)
    save("terms", table(runs), note=settings, quick=options.quick)
    parallel.barrier()


if __name__ == "__main__":
    main()
