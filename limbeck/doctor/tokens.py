"""Two readings of one text side by side, token by token, from where they part."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

_BEFORE, _AFTER = 2, 6


def parted(one: Sequence[int], other: Sequence[int]) -> int | None:
    """The place of the first token that differs; None where all are the same."""
    for place, (a, b) in enumerate(itertools.zip_longest(one, other)):
        if a != b:
            return place
    return None


def beside(
    names: tuple[str, str], ids: tuple[Sequence[int], Sequence[int]], tokenizers: tuple[Any, Any]
) -> list[str]:
    """Lines of place, token here and token there, around the first difference; '>' where they differ."""
    place = parted(*ids)
    if place is None:
        return []
    first = max(0, place - _BEFORE)
    rows: list[tuple[str, ...]] = [("", "token", *names)]
    for at in range(first, min(max(map(len, ids)), place + _AFTER)):
        cells = [_cell(one, at, tokenizer) for one, tokenizer in zip(ids, tokenizers, strict=True)]
        rows.append((">" if ids[0][at : at + 1] != ids[1][at : at + 1] else "", str(at), *cells))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{row[0]:1} {row[1]:>{widths[1]}}  {row[2]:<{widths[2]}}  {row[3]}".rstrip()
        for row in rows
    ]


def _cell(ids: Sequence[int], at: int, tokenizer: Any) -> str:
    return told(ids[at], tokenizer) if at < len(ids) else "(ended)"


def told(number: int, tokenizer: Any) -> str:
    """An id and its text, with no character that a terminal would obey."""
    text = tokenizer.decode([number], skip_special_tokens=False)
    return f"{number} {ascii(text) if not text.isprintable() else repr(text)}"
