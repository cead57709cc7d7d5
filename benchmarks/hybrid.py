"""Hybrids of one teacher at equal tokens: two mixers, attentions kept by the probe, evenly or none, and with fewer stages.

Each arm is a recipe that `limbeck train` would carry out, with its control and export left out. Judged in bits per byte and
by the KL of the teacher to the student on documents that nobody was trained on, and by how often the student finds a value in a
made-up dictionary. Every arm reads the same number of tokens: stages that are left out give theirs to the last one. Learning
rates were chosen once for each kind of stage.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import arms
import clone

from limbeck.models import probe

LENGTH, ROWS, KEPT = 256, 4, 4
# Blocks that `{auto: 4, prompts: 50}` finds, by heads; minutes, which no arm waits for.
PROBED = [13, 16, 18, 19]
# Of all tokens, to the first and the second stage where there are any; the rest is the last one's.
SHARES = {"orient": 0.1, "align": 0.3}
RATES = {"orient": 3e-3, "align": 3e-3, "whole": 3e-4}
PROMPTS, PAIRS = 100, 10
BOTH = {"at": {"student": "layers.*.mamba", "teacher": "layers.*.self_attn"}}
ARMS: dict[str, tuple[str, Any, tuple[str, ...]]] = {
    "mamba2, probe, 1 + 2 + 3": ("mamba2", PROBED, ("orient", "align")),
    "mamba2, probe, 2 + 3": ("mamba2", PROBED, ("align",)),
    "mamba2, probe, 3": ("mamba2", PROBED, ()),
    "mamba2, spread, 1 + 2 + 3": ("mamba2", KEPT, ("orient", "align")),
    "mamba2, none, 1 + 2 + 3": ("mamba2", "none", ("orient", "align")),
    "discrete, probe, 1 + 2 + 3": ("discrete_mamba2", PROBED, ("orient", "align")),
    "discrete, probe, 2 + 3": ("discrete_mamba2", PROBED, ("align",)),
    "discrete, probe, 3": ("discrete_mamba2", PROBED, ()),
    "discrete, spread, 1 + 2 + 3": ("discrete_mamba2", KEPT, ("orient", "align")),
    "discrete, none, 1 + 2 + 3": ("discrete_mamba2", "none", ("orient", "align")),
    "discrete from identity, probe, 1 + 2 + 3": ("discrete_mamba2", PROBED, ("orient", "align")),
    "discrete from identity, probe, 2 + 3": ("discrete_mamba2", PROBED, ("align",)),
    "discrete from identity, probe, 3": ("discrete_mamba2", PROBED, ()),
    "discrete from identity, spread, 1 + 2 + 3": ("discrete_mamba2", KEPT, ("orient", "align")),
    "discrete from identity, none, 1 + 2 + 3": ("discrete_mamba2", "none", ("orient", "align")),
}


def recipe(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """The run of one arm."""
    mixer, kept, before = ARMS[arm]
    start = "identity" if "from identity" in arm else "attention"  # told, since the default differs
    folder = Path(options.work) / "corpus"
    clone.corpus(Path(options.text), folder)

    def text(split: str) -> dict[str, Any]:
        how = {"path": str(folder), "split": split, "length": LENGTH}
        return {"text": how | {"separator": "<|endoftext|>"}}

    steps = max(options.tokens // (LENGTH * ROWS), 1 + len(before))

    def stage(name: str, count: int, **told: Any) -> dict[str, Any]:
        return {
            "name": name,
            "source": text("train"),
            "budget": f"{count} steps",
            "rows_per_step": ROWS,
            "micro_rows": ROWS,
            "optimizer": {"learning_rate": RATES[name], "schedule": "wsd", "minimum_ratio": 0.01},
        } | told

    forced = {"forward": "layer_forced", "train": ["*.mamba.*"]}
    terms = {"orient": {"mixing_matrix": BOTH}, "align": {"feature_norm": BOTH}}
    counts = {name: max(1, round(SHARES[name] * steps)) for name in before}
    stages = [stage(name, counts[name], objective=[terms[name]], **forced) for name in before]
    stages.append(stage("whole", steps - sum(counts.values()), objective=["forward_kl"]))
    tree = {
        "name": f"{arm.replace(',', '').replace(' ', '-').replace('+', 'and')}-{seed}",
        "seed": seed,
        "teacher": {"live": {"model": options.teacher}},
        "student": {"hybrid": {"mixer": mixer, "keep_attention": kept, "start": start}},
        "stages": stages,
        "checkpoints": {"every": 1_000_000, "keep_last": 1},
        "evaluate": {"source": text("held_out"), "rows": options.rows},
        "runs": options.work,
    }
    return copy.deepcopy(tree)


def looked_up(student: Any, tokenizer: Any) -> dict[str, Any]:
    """How well a student finds values."""
    right, nats = probe.retrieves(student, tokenizer, prompts=PROMPTS, pairs=PAIRS)
    return {"retrieval": right, "retrieval_nats": nats}


def asked() -> argparse.Namespace:
    assert __doc__ is not None
    parser = arms.options(__doc__, "runs/hybrid")
    parser.add_argument("--seeds", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.quick:
        options.tokens, options.rows, options.work = ROWS * LENGTH, 2, f"{options.work}-quick"
    names = options.arms or list(ARMS)
    plan = [(arm, seed) for seed in range(options.seeds) for arm in names]
    arms.carried_out(
        "hybrid",
        plan[4:5] if options.quick else plan,
        lambda arm, seed: recipe(options, arm, seed),
        settings=f"{options.tokens:,} tokens in rows of {LENGTH}, {options.rows} held-out rows, learning rates {RATES}",
        quick=options.quick,
        more=looked_up,
    )


if __name__ == "__main__":
    main()
