"""Rows of a few benchmarks, in the columns that lm-eval's own tasks read, made of the words of tiny_text."""

import json
import random
from pathlib import Path

import tiny_text

ROWS = 6
WORDS = tiny_text.PROSE.split()


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def code(place: Path, *, rows: int = 3) -> Path:
    """Rows of humaneval and mbpp, in whose questions a number is to be given back."""
    for number in range(rows):
        name = f"give_{number}"
        row = {
            "task_id": f"HumanEval/{number}", "entry_point": name,
            "prompt": f"def {name}(wine):\n", "canonical_solution": f"    return {number}\n",
            "test": f"def check(candidate):\n    assert candidate(0) == {number}\n",
        }  # fmt: skip
        _add(place / "humaneval/test.jsonl", row)
    for number in range(rows + 5):
        name = f"give_{number}"
        row = {
            "task_id": number + 1, "text": f"Write {name}.", "code": f"def {name}(x):\n    return x + START",
            "test_setup_code": f"START = {number}", "challenge_test_list": [""],
            "test_list": [f"assert {name}({x}) == {x + number}" for x in range(3)],
        }  # fmt: skip
        _add(place / f"mbpp/{'test' if number < rows else 'prompt'}.jsonl", row)
    return place


def _add(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def folder(place: Path) -> Path:
    """piqa and arc_easy with examples; boolq, lambada, wikitext and gsm8k with questions (and what gsm8k must have)."""
    draw = random.Random(5)

    def said(words: int) -> str:
        return " ".join(draw.choices(WORDS, k=words))

    for split in ("train", "validation"):
        rows = [
            {"goal": said(6), "sol1": said(4), "sol2": said(5), "label": draw.randint(0, 1)}
            for _ in range(ROWS)
        ]
        _write(place / f"piqa/{split}.jsonl", rows)
    for split in ("train", "test"):
        rows = [
            {
                "question": said(5),
                "choices": {"text": [said(2) for _ in "ABCD"], "label": list("ABCD")},
                "answerKey": draw.choice("ABCD"),
            }
            for _ in range(ROWS)
        ]
        _write(place / f"arc_easy/{split}.jsonl", rows)
        sums = [{"question": said(4), "answer": f"#### {number}"} for number in range(ROWS)]
        _write(place / f"gsm8k/{split}.jsonl", sums)
    yes = [{"passage": said(9), "question": said(4), "label": n % 2} for n in range(ROWS)]
    _write(place / "boolq/validation.jsonl", yes)
    _write(place / "lambada_openai/test.jsonl", [{"text": said(8)} for _ in range(ROWS)])
    _write(place / "wikitext2/test.pages.jsonl", [{"page": said(60)} for _ in range(3)])
    return place
