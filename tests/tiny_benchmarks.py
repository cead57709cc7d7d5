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
