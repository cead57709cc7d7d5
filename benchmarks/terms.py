"""What each term adds: half-depth students of one teacher, of equal start, rows and tokens, under more and more terms.

Each arm is a recipe that `limbeck train` would carry out, with its control and export left out. Judged in bits per byte
and by the KL of the teacher to the student, over all ids, on text that nobody was trained on. A seed changes the order
of rows and the choice of tokens. Weights were chosen once, by the size of each term at the start, and not tuned.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import arms

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


def recipe(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
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
    return copy.deepcopy(tree)


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
    plan = [(arm, seed) for seed in range(3) for arm in ARMS if seed < SEEDS.get(arm, 1)]
    arms.carried_out(
        "terms",
        plan[2:3] if options.quick else plan,
        lambda arm, seed: recipe(options, arm, seed),
        settings=settings,
        quick=options.quick,
        told=lambda arm, _: {"objective": ARMS[arm]},
    )


if __name__ == "__main__":
    main()
