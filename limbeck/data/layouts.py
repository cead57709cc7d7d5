"""Rows as people keep conversations -> one form: turns with roles, plain text, or tokens. Each layout is read as it is.

A row that cannot be understood raises DataError with the reason alone; who reads the file knows the place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from limbeck.data.turns import (
    Conversation,
    Example,
    Text,
    Tokens,
    Turn,
    check,
    conversation,
    string,
    texts,
    turns,
    weight,
)
from limbeck.errors import DataError

_PICTURES = ("images", "image", "videos", "audios")


def example(row: dict[str, Any], layout: str = "auto") -> Example:
    """What a row holds, in the layout that its keys show, or the one that is named."""
    # Columns that a table has for other rows are null in this one.
    row = {key: value for key, value in row.items() if value is not None}
    if any(row.get(key) for key in _PICTURES):
        raise DataError("it has pictures or sounds, and only text is read")
    if layout == "auto":
        layout = _layout(row)
    keys, read = LAYOUTS[layout]
    missing = [key for key in keys if key not in row]
    if missing:
        raise DataError(f"no {', '.join(missing)}, which layout '{layout}' needs ({_has(row)})")
    found = read(row)
    counts = weight(row.get("weight"), "the row's")
    for text in texts(found):
        check(text)
    return _scaled(found, counts)


def _layout(row: dict[str, Any]) -> str:
    for name, (keys, _) in LAYOUTS.items():
        if all(key in row for key in keys):
            return name
    known = "; ".join(" and ".join(keys) for keys, _ in LAYOUTS.values())
    raise DataError(f"no layout that is known ({_has(row)}). Wanted: {known}")


def _has(row: dict[str, Any]) -> str:
    return "it has: " + (", ".join(ascii(name[:40]) for name in list(row)[:8]) or "nothing")


def _messages(row: dict[str, Any]) -> Conversation:
    return conversation(turns(row["messages"], "messages"), row)


def _conversations(row: dict[str, Any]) -> Conversation:
    return conversation(turns(row["conversations"], "conversations"), row)


def _completion(row: dict[str, Any]) -> Conversation:
    return _asked(row, row["prompt"], row["completion"])


def _response(row: dict[str, Any]) -> Conversation:
    return _asked(row, row["prompt"], row["response"])


def _asked(row: dict[str, Any], prompt: Any, answer: Any) -> Conversation:
    """A prompt and an answer, each a string or turns of its own."""
    asked = turns(prompt, "prompt") if isinstance(prompt, list) else [Turn("user", string(prompt))]
    if isinstance(answer, list):
        return conversation([*asked, *turns(answer, "answer")], row)
    return conversation([*asked, Turn("assistant", string(answer))], row)


def _instruction(row: dict[str, Any]) -> Conversation:
    asked, given = string(row["instruction"]), string(row.get("input", ""))
    found, history = [], row.get("history", ())
    if not isinstance(history, list | tuple):
        raise DataError(f"history is {type(history).__name__}, not a list")
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise DataError("history holds what is no pair of a question and an answer")
        found += [Turn("user", string(pair[0])), Turn("assistant", string(pair[1]))]
    found.append(Turn("user", f"{asked}\n{given}" if given else asked))
    return conversation([*found, Turn("assistant", string(row["output"]))], row)


def _text(row: dict[str, Any]) -> Text:
    return Text(string(row["text"]))


def _tokens(row: dict[str, Any]) -> Tokens:
    ids = _numbers(row, "input_ids", int)
    weights = [1.0] * len(ids)
    if "labels" in row:
        labels = _numbers(row, "labels", int)
        wrong = [i for i, (a, b) in enumerate(zip(ids, labels, strict=False)) if b not in (a, -100)]
        if len(labels) != len(ids) or wrong:
            place = wrong[0] if wrong else len(labels)
            raise DataError(
                f"labels differ from input_ids at token {place} and are not -100 there. Wanted: the same ids, "
                "not shifted, with -100 for what does not count"
            )
        weights = [float(label != -100) for label in labels]
    if "weights" in row:
        given = _numbers(row, "weights", float)
        if len(given) != len(ids):
            raise DataError(f"{len(given)} weights for {len(ids)} input_ids")
        weights = [weight(value, "a token's") for value in given]
    there = _numbers(row, "attention_mask", int) if "attention_mask" in row else [1] * len(ids)
    if len(there) != len(ids):
        raise DataError(f"{len(there)} of attention_mask for {len(ids)} input_ids")
    if not {0, 1}.issuperset(there):
        raise DataError("attention_mask holds another number than 0 or 1")
    kept = [place for place, one in enumerate(there) if one]
    return Tokens(tuple(ids[i] for i in kept), tuple(weights[i] for i in kept))


LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Example]]] = {
    "messages": (("messages",), _messages),
    "conversations": (("conversations",), _conversations),
    "input_ids": (("input_ids",), _tokens),
    "prompt-completion": (("prompt", "completion"), _completion),
    "prompt-response": (("prompt", "response"), _response),
    "instruction": (("instruction", "output"), _instruction),
    "text": (("text",), _text),
}
"""{name: (keys that a row needs, what reads it)}; the first whose keys a row has is taken."""


def _numbers(row: dict[str, Any], key: str, kind: type) -> list[Any]:
    given, wanted = row[key], (int, float) if kind is float else (int,)
    if not isinstance(given, list) or any(type(value) not in wanted for value in given):
        raise DataError(f"{key} is no list of {'numbers' if kind is float else 'whole numbers'}")
    return given


def _scaled(found: Example, counts: float) -> Example:
    if isinstance(found, Text):
        return replace(found, weight=counts)
    own = found.weights if isinstance(found, Tokens) else [turn.weight for turn in found.turns]
    weight(counts * max(own, default=0.0), "the row's and its own, multiplied: the")
    weights = tuple(counts * one for one in own)
    if isinstance(found, Tokens):
        return replace(found, weights=weights)
    pairs = zip(found.turns, weights, strict=True)
    return replace(found, turns=tuple(replace(turn, weight=one) for turn, one in pairs))
