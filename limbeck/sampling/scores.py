"""Log-probabilities of given tokens, as servers tell them: vLLM's prompt_logprobs, and the echo of OpenAI's completions.

A request holds prompts of token ids, of which nothing is to be written on. For each token but the first the server says the
ids that were likeliest there. Tokens are told by their ids: of two ids one text can be the spelling.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.sampling.shapes import Body, Unexpected

_BY_ID = re.compile(r"token_id:(\d+)")


@dataclass(frozen=True)
class Scored:
    """What a server says of a prompt: ids int64 (time - 1, k), likeliest first, logprobs float64 (time - 1, k).

    spelled: what it calls the prompt's own tokens, (time - 1,), None where it does not say.
    """

    ids: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    spelled: tuple[str | None, ...]


Entries = Mapping[int, tuple[float, str | None]]
"""{id: (its log-probability, how the server spells it)}"""


@dataclass(frozen=True)
class Protocol:
    """How one kind of server is asked for scores: the fields of a body, and what of a choice is the scores of a prompt."""

    body: Callable[[int, float], Body]
    entries: Callable[[Body, int], Sequence[Entries | None]]


def asked(model: str, prompts: Sequence[Sequence[int]], fields: Body) -> Body:
    """The body of a request."""
    return {"model": model, "prompt": [list(prompt) for prompt in prompts]} | fields


def read(protocol: Protocol, body: Body, prompts: Sequence[Sequence[int]], k: int) -> list[Scored]:
    """The scores of each prompt of a request."""
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != len(prompts):
        found = len(choices) if isinstance(choices, list) else "no"
        raise Unexpected(f"{found} choices for {len(prompts)} prompts")
    if not all(isinstance(one, dict) for one in choices):
        raise Unexpected("a choice that is no object")
    places = [one.get("index", number) for number, one in enumerate(choices)]
    if sorted(map(str, places)) != sorted(map(str, range(len(prompts)))):
        raise Unexpected(f"choices numbered {places}")
    ordered = sorted(zip(places, choices, strict=True), key=lambda pair: int(pair[0]))
    return [
        _scored(protocol.entries(choice, len(prompt)), prompt, k)
        for (_, choice), prompt in zip(ordered, prompts, strict=True)
    ]


def _scored(told: Sequence[Entries | None], prompt: Sequence[int], k: int) -> Scored:
    if len(told) != len(prompt):
        raise Unexpected(f"scores of {len(told)} tokens for a prompt of {len(prompt)}")
    ids = np.empty((len(prompt) - 1, k), dtype=np.int64)
    logprobs = np.empty((len(prompt) - 1, k))
    spelled = list[str | None]()
    for place, entries in enumerate(told[1:]):
        if entries is None or len(entries) < k:
            raise Unexpected(f"{len(entries or ())} scores at a token; wanted {k}")
        if prompt[place + 1] not in entries:
            raise Unexpected(
                f"no score of the prompt's own token {place + 1} at its place: these are scores of another text, or moved"
            )
        # What the prompt has there is told beside the likeliest, though it is none of them.
        best = sorted(entries, key=lambda one: (-entries[one][0], one))[:k]
        ids[place] = best
        logprobs[place] = [entries[one][0] for one in best]
        spelled.append(entries[prompt[place + 1]][1])
    return Scored(ids, logprobs, tuple(spelled))


def _number(given: Any) -> float:
    """A log-probability: a number, at most a rounding above 0."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise Unexpected(f"a {type(given).__name__} for a log-probability")
    if not (given <= 1e-3 and math.isfinite(given)):
        raise Unexpected(f"{given} for a log-probability")
    return min(float(given), 0.0)


def _vllm_body(k: int, temperature: float) -> Body:
    # One token is the least that it writes.
    return {
        "max_tokens": 1,
        "temperature": temperature,
        "prompt_logprobs": k,
        "add_special_tokens": False,
    }


def _vllm_entries(choice: Body, length: int) -> list[Entries | None]:  # noqa: ARG001
    told = choice.get("prompt_logprobs")
    if not isinstance(told, list):
        raise Unexpected("a choice without prompt_logprobs")
    return [None if one is None else _vllm_one(one) for one in told]


def _vllm_one(given: Any) -> Entries:
    if not isinstance(given, dict):
        raise Unexpected(f"a {type(given).__name__} for the scores of a token")
    found = dict[int, tuple[float, str | None]]()
    for name, one in given.items():
        if not (name.isascii() and name.isdecimal()) or not isinstance(one, dict):
            raise Unexpected(f"scores of {name!r}; wanted those of an id")
        spelling = one.get("decoded_token")
        told = spelling if isinstance(spelling, str) else None
        found[int(name[:12])] = (_number(one.get("logprob")), told)
    return found


def _echo_body(k: int, temperature: float) -> Body:
    return {
        "max_tokens": 0,
        "temperature": temperature,
        "echo": True,
        "logprobs": k,
        "return_tokens_as_token_ids": True,
        "add_special_tokens": False,
    }


def _echo_entries(choice: Body, length: int) -> list[Entries | None]:
    logprobs = choice.get("logprobs")
    told = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(told, list):
        raise Unexpected("a choice without logprobs.top_logprobs")
    # Servers that write at least one token tell its scores behind the prompt's.
    return [None if one is None else _echo_one(one) for one in told[:length]]


def _echo_one(given: Any) -> Entries:
    if not isinstance(given, dict):
        raise Unexpected(f"a {type(given).__name__} for the scores of a token")
    found = dict[int, tuple[float, str | None]]()
    for name, one in given.items():
        named = _BY_ID.fullmatch(name)
        if named is None:
            raise Unexpected(
                f"scores of the text {name!r}, which several ids may spell; wanted 'token_id:N', as "
                "return_tokens_as_token_ids asks for"
            )
        found[int(named[1][:12])] = (_number(one), None)
    return found


PROTOCOLS = {
    "vllm": Protocol(_vllm_body, _vllm_entries),
    "echo": Protocol(_echo_body, _echo_entries),
}
"""{name in a recipe: how such servers are asked}"""
