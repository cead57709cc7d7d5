"""Students of a teacher's own answers: output, logit and hybrid distillation at equal tokens, from half depth and from a config.

The teacher answers instructions first, as recipes/generate/smollm2.yaml has it. Each arm is a recipe that
`limbeck train` would carry out, with its control and export left out; `output` is told of a teacher for its judgement alone, and reads none
while it learns. Judged on the teacher's answers to prompts that nobody was trained on: bits per byte, the KL of the teacher to the student,
and how often the student's own answers to the same prompts end by themselves. Learning rates were chosen once for each kind of student.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import arms
import torch

from limbeck import files
from limbeck.data.prompted import Prompter
from limbeck.models.load import load_model, load_tokenizer
from limbeck.sampling.answers import Drawing
from limbeck.sampling.transformers import write

RECIPE = "recipes/generate/smollm2.yaml"
LENGTH, ROWS = 512, 2
DRAWN = Drawing(0.7, None, 192)
# Prompts that a student answers itself, and how many at a time.
ASKED, TOGETHER = 64, 32
WAYS: dict[str, dict[str, Any]] = {
    "output": {"objective": ["cross_entropy"]},
    "logit": {"objective": ["forward_kl"]},
    "hybrid": {"objective": ["forward_kl"], "alpha": 0.3},
}
SHAPE = {
    "model_type": "llama", "vocab_size": 49_152, "hidden_size": 256, "intermediate_size": 704,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
    "max_position_embeddings": 2048, "rms_norm_eps": 1.0e-5, "rope_theta": 10_000.0,
    "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
# What begins, at which rate, and how many times the tokens: random weights know nothing yet, and are six times as small.
STUDENTS: dict[str, tuple[dict[str, Any], float, int]] = {
    "half depth": ({"pruned": {"layers": 15}}, 5e-4, 1),
    "from a config": ({"scratch": {"config": SHAPE}}, 2e-3, 4),
}
ARMS = [f"{student}, {way}" for student in STUDENTS for way in WAYS]


def corpus(options: argparse.Namespace) -> Path:
    """The teacher's answers, filtered; written by `limbeck generate`, which goes on where it was stopped."""
    folder = Path(options.work) / "corpus"
    told = [f"output={folder}", f"teacher.local.model={options.teacher}", *options.asking]
    command = [sys.executable, "-m", "limbeck", "generate", RECIPE, *told]
    subprocess.run(command, check=True)
    return folder


def recipe(options: argparse.Namespace, folder: Path, arm: str, seed: int) -> dict[str, Any]:
    """The run of one arm."""
    kind, _, way = arm.partition(", ")
    student, rate, times = STUDENTS[kind]

    def answers(split: str) -> dict[str, Any]:
        how = {"path": str(folder), "split": split, "length": LENGTH, "too_long": "drop"}
        return {"chat": how | {"separator": "<|endoftext|>"}}

    tree = {
        "name": f"{arm.replace(',', '').replace(' ', '-')}-{seed}",
        "seed": seed,
        "teacher": {"live": {"model": options.teacher}},
        "student": student,
        "stages": [
            {
                "name": "distil",
                "source": answers("train"),
                "budget": f"{options.tokens * times} tokens",
                "rows_per_step": ROWS,
                "micro_rows": ROWS,
                "optimizer": {"learning_rate": rate, "schedule": "cosine", "warmup_ratio": 0.05},
            }
            | WAYS[way]
        ],
        "checkpoints": {"every": 1_000_000, "keep_last": 1},
        "evaluate": {"source": answers("held_out"), "rows": options.rows},
        "runs": options.work,
    }
    return copy.deepcopy(tree)


def ending(student: Any, tokenizer: Any, asked: Sequence[str]) -> dict[str, Any]:
    """How many of a student's own answers end by themselves, and how long they are."""
    with Prompter(tokenizer) as prompter:
        ids = [prompter.ids(text) for text in asked]
    whole = [(str(place), one) for place, one in enumerate(ids) if isinstance(one, list)]
    student.to(torch.bfloat16).eval()
    answers = []
    for first in range(0, len(whole), TOGETHER):
        batch = whole[first : first + TOGETHER]
        answers += write(student, tokenizer, batch, DRAWN, stop=lambda: False) or []
    stopped = [one for one in answers if one.finish == "stop"]
    return {
        "stops": len(stopped) / len(answers),
        "answers": len(answers),
        "tokens_each": sum(one.tokens_out or 0 for one in answers) / len(answers),
        "written": [one.text for one in answers[:3]],
    }


@cache
def of_teacher(model: str, folder: Path) -> dict[str, Any]:
    """The same of the teacher, and what became of all its answers."""
    teacher = load_model(model, dtype=torch.bfloat16)
    found = ending(teacher, load_tokenizer(model), questions(folder))
    told = files.read_manifest(folder).about
    corpus = {key: told[key] for key in ("rows", "failed", "filtered")}
    return {"of_teacher": found, "corpus": corpus}


def questions(folder: Path) -> list[str]:
    """Held-out prompts that everybody answers."""
    lines = (folder / "held_out.jsonl").read_text().splitlines()
    return [json.loads(line)["prompt"] for line in lines[:ASKED]]


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="a step of one arm")
    parser.add_argument("--tokens", type=int, default=65_536)
    parser.add_argument("--rows", type=int, default=24, help="held-out rows that judge")
    parser.add_argument("--arms", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--teacher", default="models/SmolLM2-135M-Instruct")
    parser.add_argument(
        "--asking", nargs="*", default=(), help="keys of the generation, as KEY=VALUE"
    )
    parser.add_argument("--work", default="runs/answers")
    return parser.parse_args()


def main() -> None:
    options = asked()
    if options.quick:
        options.tokens, options.rows, options.work = ROWS * LENGTH, 2, f"{options.work}-quick"
        options.asking = [*options.asking, "sampling.max_tokens=24", "filters=[]"]
    folder = corpus(options)
    rates = {kind: rate for kind, (_, rate, _) in STUDENTS.items()}
    names = options.arms or ARMS
    plan = [(arm, seed) for seed in range(options.seeds) for arm in names]
    arms.carried_out(
        "answers",
        plan[2:3] if options.quick else plan,
        lambda arm, seed: recipe(options, folder, arm, seed),
        settings=f"{options.tokens:,} tokens in rows of {LENGTH} (times 4 from a config), {options.rows} held-out rows, "
        f"learning rates {rates}",
        quick=options.quick,
        told=lambda arm, seed: of_teacher(options.teacher, folder),  # noqa: ARG005
        more=lambda student, tokenizer: ending(student, tokenizer, questions(folder)),
    )


if __name__ == "__main__":
    main()
