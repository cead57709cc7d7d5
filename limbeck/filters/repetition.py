"""Repetition: answers that go round in circles, as a model does that has lost its way."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from limbeck.filters._rows import Row

Share = Annotated[float, Field(ge=0, le=1)]
# A word, or a single sign of a script that has no spaces between words.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)


def repetition(
    rows: Sequence[Row],
    *,
    lines: Share = 0.3,
    phrases: Share = 0.2,
    words: Annotated[int, Field(gt=0)] = 8,
) -> list[str]:
    """A reason for each row that says again what it has said.

    lines: the largest share of the lines, from eight characters on, that stood there before. phrases: the largest share of
    the runs of `words` words that stood there before (both after Rae et al., 2021). An answer of fewer than two runs is not judged by them.
    """
    return [_reason(row["response"], lines, phrases, words) for row in rows]


def _reason(text: str, most_lines: float, most_phrases: float, words: int) -> str:
    said = [line.strip() for line in text.split("\n") if len(line.strip()) >= 8]
    if len(said) > 2 and (share := _again(said)) > most_lines:
        return f"{share:.0%} of its lines stood there before"
    spoken = _WORD.findall(text.lower())
    runs = [tuple(spoken[at : at + words]) for at in range(len(spoken) - words + 1)]
    if len(runs) > 1 and (share := _again(runs)) > most_phrases:
        return f"{share:.0%} of its runs of {words} words stood there before"
    return ""


def _again(items: Sequence[object]) -> float:
    """The share of items that are equal to an earlier one."""
    return sum(count - 1 for count in Counter(items).values()) / len(items)
