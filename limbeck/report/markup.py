"""Strange text inside Markdown: whatever it holds, it stays where it is put."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence


def fence(text: str) -> str:
    """Backticks that no line of a text closes."""
    return "`" * max(3, 1 + _longest(text))


def code(text: str) -> str:
    """A text as code within a line; of one that has no line, or several, its JSON string."""
    if not text.strip() or "\n" in text or "\r" in text:
        text = json.dumps(text, ensure_ascii=False)
    around = "`" * (1 + _longest(text))
    # One space at each end is not shown, and parts backticks of the text from those around it.
    space = " " if text[0] in " `" or text[-1] in " `" else ""
    return f"{around}{space}{text}{space}{around}"


def line(text: str) -> str:
    """A text as words of one line, without a tag."""
    return " ".join(text.split()).replace("<", r"\<")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    first, *others = [f"| {' | '.join(map(_cell, row))} |" for row in (headings, *rows)]
    return [first, "|---" * len(headings) + "|", *others]


def _cell(text: str) -> str:
    return line(text).replace("|", r"\|")


def _longest(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
