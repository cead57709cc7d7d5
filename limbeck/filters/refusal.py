"""Refusal: answers that begin by saying that there will be none."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from limbeck.filters._rows import Row

PHRASES = (
    "i can't", "i cannot", "i can not", "i am unable to", "i'm unable to", "i am not able to", "i'm not able to",
    "i won't", "i will not be able", "i am sorry", "i'm sorry", "sorry, but", "my apologies", "i apologize", "i apologise",
    "as an ai", "as a language model", "as a large language model", "unfortunately, i", "i must decline", "i have to decline",
    "i'd rather not", "it is not appropriate for me", "i am only an ai", "i'm only an ai", "i'm just an ai",
)  # fmt: skip
_SPACE = re.compile(r"\s+")


def refusal(
    rows: Sequence[Row],
    *,
    phrases: tuple[str, ...] = PHRASES,
    within: Annotated[int, Field(ge=0)] = 40,
) -> list[str]:
    """A reason for each row whose answer has one of the phrases at most `within` characters from its beginning.

    Further on a phrase may be part of the text: a character in a story may be sorry. Case and kind of apostrophe do not count.
    """
    plain = [_plain(phrase) for phrase in phrases]
    return [_reason(_plain(row["response"]), plain, within) for row in rows]


def _plain(text: str) -> str:
    return (
        _SPACE.sub(" ", text[:2000].replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")).strip().lower()
    )


def _reason(text: str, phrases: Sequence[str], within: int) -> str:
    for phrase in phrases:
        if phrase in text[: within + len(phrase)]:
            return f"a refusal: '{phrase}'"
    return ""
