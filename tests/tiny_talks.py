"""A tiny training job on conversations: rows of a chat source, in which few tokens count and no two rows count alike."""

from pathlib import Path

import tiny_chat
import tiny_run

from limbeck.data.loader import PackedSource
from limbeck.training import loop

VOCAB = len(tiny_chat.TOKENIZER)
WORDS = [
    "What",
    "is",
    "light",
    "is",
    "kept,",
    "what",
    "is",
    "heavy",
    "stays",
    "behind,",
    "and",
    "the",
    "fire",
    "burns",
    "on.",
]


def talks(count: int = 18) -> list[list[dict[str, str]]]:
    """Conversations of one or two exchanges, with answers of 1 to 9 words."""
    found = []
    for n in range(count):
        said = ["Why?", " ".join(WORDS[n % 5 : n % 5 + 1 + n % 9])]
        found.append(tiny_chat.messages(*said, *(["So?", WORDS[n % 12]] if n % 4 == 0 else [])))
    return found


def source(folder: Path, count: int = 18) -> PackedSource:
    """Rows of 96 tokens of these, several to a row where they fit, in the order of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    found: PackedSource = tiny_chat.source(folder, talks(count), length=96)
    return found


def job(folder: Path, **changes: object) -> loop.Loop:
    """The job of tiny_run on conversations: steps of 4 rows."""
    stage = tiny_run.stage(**{"rows_per_step": 4, **changes})
    return tiny_run.job(folder, stage_=stage, source=source(folder / "data"), vocab=VOCAB)
