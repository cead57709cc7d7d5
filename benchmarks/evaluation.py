"""Five-shot items with four choices: lm-eval's own loop against the tree of all requests, on the same model."""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from side_by_side import Round, ratio, save, seconds, timed
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from limbeck.evaluation._lm import TreeLM
from limbeck.models import load
from limbeck.models.trees import tree

HERE = Path(__file__).parents[1]
DATA = HERE.parent / "shared/data"
TEACHER = HERE / "models/SmolLM2-135M-Instruct"
LETTERS = "ABCD"
CLOSE = 2e-3
"""Nats by which a sum of log-probabilities may differ in float32."""


def rows(path: Path, number: int) -> list[dict[str, Any]]:
    """The first lines of a file of JSON objects."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(number), strict=False)]


def letters(shots: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """MMLU as lm-eval asks it: the choices stand in the question, a letter is judged."""

    def asked(row: dict[str, Any]) -> str:
        choices = "".join(
            f"{name}. {text}\n" for name, text in zip(LETTERS, row["choices"], strict=True)
        )
        return f"{row['question'].strip()}\n{choices}Answer:"

    before = "".join(f"{asked(row)} {LETTERS[row['answer']]}\n\n" for row in shots)
    return [(before + asked(row), f" {name}") for row in items for name in LETTERS]


def answers(shots: list[dict[str, Any]], items: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """ARC as lm-eval asks it: the text of each choice is judged."""
    before = "".join(
        f"Question: {row['question']}\nAnswer: {row['choices'][row['answer']]}\n\n" for row in shots
    )
    return [
        (f"{before}Question: {row['question']}\nAnswer:", f" {choice}")
        for row in items
        for choice in row["choices"]
    ]


def arc(path: Path, number: int) -> list[dict[str, Any]]:
    """Items of ARC with four choices, as {question, choices, answer}."""
    found = []
    for row in rows(path, 2 * number):
        texts, labels = row["choices"]["text"], row["choices"]["label"]
        if len(texts) == 4:
            answer = labels.index(row["answerKey"])
            found.append({"question": row["question"], "choices": texts, "answer": answer})
    return found[:number]


def measured(
    name: str, pairs: list[tuple[str, str]], model: Any, tokenizer: Any, rounds: int
) -> dict[str, Any]:
    """Both ways over the same requests; not timed unless they agree."""
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    ours = TreeLM(model, tokenizer)
    theirs = {size: HFLM(model, tokenizer=tokenizer, batch_size=size) for size in (1, 4)}
    some = requests[:12]
    best = min(theirs, key=lambda size: timed(lambda: theirs[size].loglikelihood(some, True)).cpu)
    found: dict[str, Any] = {}

    def run(label: str, lm: Any) -> Callable[[], None]:
        return lambda: found.update({label: lm.loglikelihood(requests, True)})

    ours.loglikelihood(some, True)  # warm; lm-eval is, by the choice of its batch size
    runners = {"ours": run("ours", ours), "lm-eval": run("lm-eval", theirs[best])}
    times: dict[str, list[Round]] = {label: [] for label in runners}
    for _ in range(rounds):
        for label, function in runners.items():
            times[label].append(timed(function))
    values = [torch.tensor([one[0] for one in found[label]]) for label in ("ours", "lm-eval")]
    apart = float((values[0] - values[1]).abs().max())
    if apart > CLOSE:
        raise SystemExit(
            f"{name}: log-likelihoods differ by {apart:.3g} nats; nothing is compared."
        )
    ids = [ours._encode_pair(*pair) for pair in pairs]
    read = [torch.tensor((context + more)[:-1]).numpy() for context, more in ids]
    # Choices of one token behind one context are one reading to lm-eval: it shares that much by itself.
    alone = {one.tobytes(): len(one) for one in read}
    return {
        "items": f"{name}, {len(pairs) // 4} items, {_name(model)}",
        "ours s": seconds(times, "ours"),
        "lm-eval s": seconds(times, "lm-eval"),
        "batch of lm-eval": best,
        "tokens of requests": sum(len(one) for one in read),
        "tokens that lm-eval reads": sum(alone.values()),
        "tokens of the tree": len(tree(read)[0].tokens),
        "nats apart": apart,
        "lm-eval / ours": ratio(times, "lm-eval", "ours"),
    }


def _name(model: Any) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:,.0f} M parameters"


def tiny() -> tuple[Any, Any]:
    """A random model that reads bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({sign: number for number, sign in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=alphabet[0])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval(), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny random model and made-up items"
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--questions", type=int, default=50, help="of the MMLU subject, which has 152"
    )
    options = parser.parse_args()
    quick, rounds = options.quick, options.rounds
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if quick:
        made = [
            {"question": f"What is {n}?", "choices": [f"{n} {c}" for c in LETTERS], "answer": n % 4}
            for n in range(9)
        ]
        work = {"letters": letters(made[:5], made[5:]), "answers": answers(made[:5], made[5:])}
        model, tokenizer = tiny()
    else:
        if not (DATA / "mmlu").is_dir() or not TEACHER.is_dir():
            raise SystemExit(
                f"Wanted MMLU and ARC in {DATA} and a model in {TEACHER} ('limbeck fetch smollm2'); "
                "nothing is measured. --quick needs neither."
            )
        subject, science = DATA / "mmlu/astronomy", arc(DATA / "arc_challenge/test.jsonl", 17)
        work = {
            "MMLU astronomy, 5 shots, letters": letters(
                rows(subject / "dev.jsonl", 5), rows(subject / "test.jsonl", options.questions)
            ),
            "ARC challenge, 5 shots, answers": answers(science[:5], science[5:]),
        }
        model, tokenizer = load.load_model(str(TEACHER)), load.load_tokenizer(str(TEACHER))
    found = [measured(name, pairs, model, tokenizer, rounds) for name, pairs in work.items()]
    save(
        "evaluation",
        found,
        quick=quick,
        note="float32; the same five examples before every question; lm-eval at the better of two batch sizes",
    )


if __name__ == "__main__":
    main()
