"""What is found out of a server before anything is learned from it: its words, how many scores it tells, and at which temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.data.tokenize import PROBES
from limbeck.errors import ModelError
from limbeck.sampling.answers import Failure
from limbeck.sampling.scorer import Scorer, tokens_of
from limbeck.sampling.scores import Scored

_TEXT = (
    "The alembic stands over the fire; drop by drop, what is light is kept, and the rest is poured away. "
    "Numbers such as 7, 42 and 1024 follow one another."
)
_PROBES = [text for text in PROBES if text]
_OTHER = 2.0
# What rounding does to a log-probability that is computed twice.
_SAME = 0.05


@dataclass(frozen=True)
class Proof:
    """What was found. words: how the tokenizer was proved. repeats: the largest difference between two answers, in nats.

    tempered: whether the server's scores follow the temperature of the request.
    """

    words: str
    repeats: float
    tempered: bool

    def __str__(self) -> str:
        follow = "follow the temperature, which is 1" if self.tempered else "are of temperature 1"
        return f"tokenizer proved by {self.words}; scores {follow}; asked twice they differ by {self.repeats:.1e} nats"


def proved(scorer: Scorer, tokenizer: Any, k: int, where: str) -> Proof:
    """Asks a server a few questions. One with other words, with fewer scores, or with scores of no distribution is refused."""
    ids = tokenizer(_TEXT, add_special_tokens=False)["input_ids"]
    first, again = (scorer.score([ids], k)[0] for _ in range(2))
    other = scorer.score([ids], k, temperature=_OTHER)[0]
    check_mass(first.logprobs, where)
    words = _words(scorer, tokenizer, ids, first, where)
    return Proof(words, _apart(first, again), _apart(first, other) > _SAME)


def check_mass(logprobs: NDArray[np.float64], where: str) -> None:
    """Refuses scores (tokens, k) of which a token's are more than 1 together."""
    mass = float(np.exp(logprobs).sum(-1).max(initial=0.0))
    if mass > 1.01:
        raise ModelError(
            f"{where}: the {logprobs.shape[1]} likeliest ids of a token have a mass of {mass:.3f} together: these are no "
            "probabilities. Wanted: raw log-probabilities (vLLM: --logprobs-mode raw_logprobs)."
        )


def _words(scorer: Scorer, tokenizer: Any, ids: list[int], found: Scored, where: str) -> str:
    """How it is known that ids mean the same on both sides; where they do not, or nothing is known, it is refused."""
    told = _asked_for_tokens(scorer, tokenizer, where)
    if told is None:
        return f"/tokenize on {len(_PROBES)} texts"
    mine = [tokenizer.decode([one]) for one in ids[1:]]
    pairs = [
        (a, b) for a, b in zip(mine, found.spelled, strict=True) if b is not None and a.isascii()
    ]
    wrong = [(a, b) for a, b in pairs if a.strip() != b.strip()]
    if wrong:
        raise ModelError(
            f"{where}: the server spells a token {scorer.fit(wrong[0][1])!r} that is {wrong[0][0]!r} here: it has another tokenizer. "
            "Choose a student of the teacher's family, or set 'tokenizer' to the teacher's."
        )
    if len(pairs) * 2 < len(mine):
        raise ModelError(
            f"{where}: whether the server has this tokenizer cannot be found out: it has no /tokenize ({told.reason}), and "
            "does not spell the tokens that it scores. Wanted one of both; vLLM has both."
        )
    return f"the spelling of {len(pairs)} tokens"


def _asked_for_tokens(scorer: Scorer, tokenizer: Any, where: str) -> Failure | None:
    """Refuses a server that makes other tokens of a text; what it says where it makes none."""
    for text in _PROBES:
        body = {"model": scorer.place.model, "prompt": text, "add_special_tokens": False}
        theirs = scorer.told("/tokenize", body, tokens_of)
        if isinstance(theirs, Failure):
            return theirs
        mine = tokenizer(text, add_special_tokens=False)["input_ids"]
        if theirs != mine:
            place = next(
                (n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b),
                min(len(mine), len(theirs)),
            )
            raise ModelError(
                f"{where}: the server makes other tokens of {text[:40]!r}: {theirs[place : place + 3]} there, "
                f"{mine[place : place + 3]} here, at token {place}. Choose a student of the teacher's family, or set "
                "'tokenizer' to the teacher's."
            )
    return None


def _apart(one: Scored, other: Scored) -> float:
    """The largest difference of the log-probability of a token's likeliest id."""
    gaps = [0.0]
    for ids, logprobs, others, theirs in zip(
        one.ids, one.logprobs, other.ids, other.logprobs, strict=True
    ):
        same = np.flatnonzero(others == ids[0])
        gaps.append(abs(float(theirs[same[0]] - logprobs[0])) if len(same) else np.inf)
    return max(gaps)
