"""Low-rank clone: a student of half the teacher's width, beside others of its size, at equal tokens and rows.

Each arm is a recipe that `limbeck train` would carry out, with its control and export left out. Judged in bits per byte
and by the KL of the teacher to the student on documents that nobody was trained on. `random` arms have the clone's own
architecture and random weights; `half depth` keeps as many of the teacher's layers as have the clone's size. Weight and
temperature of the KL are those of the paper (Hao et al., 2025); learning rates were chosen once for each kind of start, by
short runs (RATES).
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import arms

from limbeck.training import meter

WIDTH = 288
# The paper's scale of KL: at temperature 40, summed over rows of 2,048 tokens without the factor of its square. The paper's weight of
# a clone term is 0.2 of plain squares, of which mlp-out alone was 10,205 here; these are of normalised squares.
WEIGHT, TEMPERATURE, ALPHA = 1.28, 40.0, 0.02
TERMS: dict[str, Any] = {
    "attention-query": "layers.*.self_attn.q_proj",
    "attention-key": "layers.*.self_attn.k_proj",
    "attention-value": "layers.*.self_attn.v_proj",
    "mlp-gate": "layers.*.mlp.gate_proj",
    "mlp-up": "layers.*.mlp.up_proj",
}
TEXTS = ("genesis", "movie_reviews", "shakespeare", "state_union")
# Characters of a document, and of how many documents the last one judges.
DOCUMENT, HELD_OUT = 6000, 20


def corpus(origin: Path, folder: Path) -> None:
    """Cuts the plain texts into documents at blank lines: train.jsonl, and every 20th in held_out.jsonl."""
    if (folder / "held_out.jsonl").is_file():
        return
    documents = []
    for name in TEXTS:
        piece = ""
        for block in (origin / f"{name}.txt").read_text(errors="replace").split("\n\n"):
            piece += block + "\n\n"
            if len(piece) >= DOCUMENT:
                documents.append(piece)
                piece = ""
        documents.append(piece)
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "held_out"):
        lines = [
            json.dumps({"text": text}) + "\n"
            for number, text in enumerate(documents)
            if text.strip() and (number % HELD_OUT == HELD_OUT - 1) == (split == "held_out")
        ]
        (folder / f"{split}.jsonl").write_text("".join(lines))


OUT = {
    "attention-out": {
        "at": {
            "student": "layers.*.self_attn.o_proj.inner",
            "teacher": "layers.*.self_attn.o_proj",
        }
    },
    "mlp-out": {"at": "layers.*.mlp.down_proj", "teacher_projected": True},
}
CLONE = {name: {"at": at} for name, at in TERMS.items()} | OUT
# Bits per byte in short runs of seed 0: 32,768 tokens in 64 steps, of which the first 15 % warm up. A clone: 2.711 at 1e-4, 2.254 at
# 2e-4, 2.903 at 5e-4; some lose what they began with in these steps and start over, so none of that is smooth, and after all
# 131,072 tokens one at 2e-4 stood at 2.474. Half depth: 2.412 at 5e-4, 2.395 at 1e-3. Random: 2.823 at 2e-3, 2.827 at 4e-3.
RATES = {"scratch": 2e-3, "pruned": 1e-3, "low_rank_clone": 5e-5}
# Layers of the teacher's own width that have about as many parameters as the clone.
DEPTH = 11
LENGTH, ROWS, PARTS = 256, 2, 8
SEEDS = {
    "clone": 3,
    "random, labels": 3,
    "random, labels and KL": 3,
    "half depth, labels and KL": 3,
}


def objective(*, labels: float = 1.0, teacher: float = WEIGHT, clone: bool = False) -> list[Any]:
    """Cross-entropy, the paper's forward KL, and every clone term."""
    found: list[Any] = [{"cross_entropy": {"weight": labels}}]
    if teacher:
        found.append({"forward_kl": {"weight": teacher, "temperature": TEMPERATURE}})
    if clone:
        found += [
            {f"feature_mse as {name}": {"weight": ALPHA, "normalised": True, **told}}
            for name, told in CLONE.items()
        ]
    return found


def arms_of(
    options: argparse.Namespace,
) -> dict[str, tuple[dict[str, Any], list[Any], tuple[str, ...]]]:
    """Student, objective and banned terms of each arm."""
    narrow = scratch(options)
    whole = objective(clone=True)

    def clone(start: str = "pca") -> dict[str, Any]:
        return {"low_rank_clone": {"width": WIDTH, "start": start}}

    found: dict[str, tuple[dict[str, Any], list[Any], tuple[str, ...]]] = {
        "clone": (clone(), whole, ()),
        "random, labels": (narrow, objective(teacher=0), ()),
        "random, labels and KL": (narrow, objective(), ()),
        "half depth, labels and KL": ({"pruned": {"layers": DEPTH}}, objective(), ()),
        "clone from gaussian": (clone("gaussian"), whole, ()),
        "clone from orthogonal": (clone("orthogonal"), whole, ()),
        "clone without its terms": (clone(), objective(), ()),
    }
    return found | {f"clone without {name}": (clone(), whole, (name,)) for name in CLONE}


# Arms that differ in their terms alone, at fewer tokens than the others.
TERMWISE = ["clone", "clone without its terms", *(f"clone without {name}" for name in CLONE)]
TERMWISE_TOKENS, TERMWISE_ROWS = 32_768, 64


def scratch(options: argparse.Namespace) -> dict[str, Any]:
    """The architecture of the clone, to be made with random weights."""
    told = json.loads((Path(options.teacher) / "config.json").read_text())
    kept = ("model_type", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    kept += ("intermediate_size", "head_dim", "max_position_embeddings", "rope_parameters")
    kept += ("rms_norm_eps", "tie_word_embeddings", "vocab_size", "bos_token_id", "eos_token_id")
    return {"scratch": {"config": {key: told[key] for key in kept} | {"hidden_size": WIDTH}}}


def recipe(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """The run of one arm."""
    student, terms, banned = arms_of(options)[arm]
    (kind,) = student
    folder = Path(options.work) / "corpus"
    corpus(Path(options.text), folder)

    def text(split: str) -> dict[str, Any]:
        how = {"path": str(folder), "split": split, "length": LENGTH}
        return {"text": how | {"separator": "<|endoftext|>"}}

    rate = options.learning_rate or RATES[kind]
    tree = {
        "name": f"{arm.replace(',', '').replace(' ', '-')}-{seed}",
        "seed": seed,
        "teacher": {"live": {"model": options.teacher}},
        "student": student,
        "stages": [
            {
                "name": "clone",
                "source": text("train"),
                "objective": terms,
                "ban": list(banned),
                "budget": f"{options.tokens} tokens",
                "rows_per_step": ROWS,
                "micro_rows": ROWS,
                "optimizer": {
                    "learning_rate": rate,
                    "schedule": "linear",
                    "warmup_ratio": 0.1,
                    "betas": [0.9, 0.999],
                    "weight_decay": 0.0,
                },
            }
        ],
        "checkpoints": {"every": 1_000_000, "keep_last": 1},
        "evaluate": {"source": text("held_out"), "rows": options.rows},
        "runs": options.work,
    }
    return copy.deepcopy(tree)


def curve(options: argparse.Namespace, arm: str, seed: int) -> dict[str, Any]:
    """Cross-entropy in nats while it trained, on rows that were never read before: means over an eighth of the steps."""
    tree = recipe(options, arm, seed)
    lines = meter.read(Path(tree["runs"]) / tree["name"] / "log.jsonl")
    size = max(1, len(lines) // PARTS)
    parts = [lines[at : at + size] for at in range(0, size * PARTS, size)]
    told = [
        {
            "tokens": part[-1]["tokens"],
            "cross_entropy": statistics.mean(line["terms"]["cross_entropy"] for line in part),
        }
        for part in parts
        if part
    ]
    return {
        "curve": told,
        "tokens_per_second": statistics.median(x["tokens_per_second"] for x in lines),
    }


def asked() -> argparse.Namespace:
    assert __doc__ is not None
    parser = arms.options(__doc__, "runs/clone")
    parser.add_argument(
        "--learning-rate", type=float, help="in the place of the one for the kind of student"
    )
    parser.add_argument(
        "--termwise", action="store_true", help="without each of the clone terms, at fewer tokens"
    )
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.termwise:
        options.tokens, options.rows = TERMWISE_TOKENS, TERMWISE_ROWS
        options.work = f"{options.work}-terms"
    if options.quick:
        options.tokens, options.rows, options.work = ROWS * LENGTH, 2, f"{options.work}-quick"
    settings = (
        f"{options.tokens:,} tokens in rows of {LENGTH}, {options.rows} held-out rows, learning "
    )
    settings += f"rate {options.learning_rate}" if options.learning_rate else f"rates {RATES}"
    names = options.arms or (
        TERMWISE
        if options.termwise
        else [arm for arm in arms_of(options) if arm not in TERMWISE[2:]]
    )
    plan = [(arm, seed) for seed in range(3) for arm in names if seed < SEEDS.get(arm, 1)]
    if options.termwise:
        plan = [(arm, 0) for arm in names]
    arms.carried_out(
        "clone_terms" if options.termwise else "clone",
        plan[:1] if options.quick else plan,
        lambda arm, seed: recipe(options, arm, seed),
        settings=settings,
        quick=options.quick,
        told=lambda arm, seed: curve(options, arm, seed),
    )


if __name__ == "__main__":
    main()
