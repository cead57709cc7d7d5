"""What a speaker is asked, and what came of it: an answer, or a failure that says whether to ask again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """One answer that is wanted. id: names prompt, settings, model and draw, the same in every run."""

    id: str
    prompt: str
    system: str | None = None

    @property
    def seed(self) -> int:
        """A seed of 63 bits that belongs to the id."""
        return int.from_bytes(hashlib.sha256(self.id.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Drawing:
    """How tokens are drawn. None leaves it to the server."""

    temperature: float | None
    top_p: float | None
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """What was said. finish: why it ended, in the server's word. Tokens are None where nobody counted them."""

    text: str
    reasoning: str = ""
    finish: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None


@dataclass(frozen=True)
class Failure:
    """Why there is no answer.

    again: whether the same request may yet succeed. paid: whether it may have been charged for. halts: whether every
    other request would meet the same, so that none is to be sent. seconds: how long the server wants to be left alone.
    """

    reason: str
    again: bool = False
    paid: bool = False
    halts: bool = False
    seconds: float | None = None
