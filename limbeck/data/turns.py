"""What one side says and then the other: the one form that conversations of every layout are brought into.

What cannot be understood raises DataError with the reason alone; who reads the file knows the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.data.sieve import unusable
from limbeck.errors import Damaged, DataError
from limbeck.files import parse_json

ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model", "bot", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "ipython", "tool_response"), "tool"),
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
# Unicode keeps these for programs' own use and no text has them: rendering marks with them what is text.
NONCHARACTERS = {chr(point) for point in range(0xFDD0, 0xFDF0)}

# Each answer is rendered with all that stands before it, so the work grows with the square of the turns.
MOST_TURNS = 1_000
# Templates, and JSON itself, go down into values by recursion.
DEEPEST = 100
# The largest float32, which is what weights are kept in.
LARGEST_WEIGHT = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True)
class Turn:
    """What one side says. weight: what its tokens count, where it is the assistant's.

    calls: {"name", "arguments"} of each function that the assistant calls.
    """

    role: str
    text: str
    weight: float = 1.0
    reasoning: str = ""
    calls: tuple[Mapping[str, Any], ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Conversation:
    """Turns up to the last of the assistant's: what comes after teaches nothing. tools: what it may call."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Text:
    """A text of which every token counts."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tokens:
    """ids: (tokens,). weights: (tokens,), what each counts as a label."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


Example = Conversation | Text | Tokens


def conversation(found: list[Turn], row: dict[str, Any]) -> Conversation:
    """Turns with the row's own system prompt and tools, up to the last answer."""
    system = string(row.get("system", ""))
    if system and found and found[0].role != "system":
        found = [Turn("system", system), *found]
    if len(found) > MOST_TURNS:
        raise DataError(f"{len(found):,} turns, more than {MOST_TURNS:,}; divide the conversation")
    last = max((i for i, turn in enumerate(found) if turn.role == "assistant"), default=-1)
    if last < 0:
        raise DataError("no turn of the assistant, so there is nothing to learn")
    return Conversation(tuple(found[: last + 1]), _tools(row.get("tools")))


def turns(given: Any, where: str) -> list[Turn]:
    """Messages of {role, content} or {from, value}, with what belongs to them."""
    if not isinstance(given, list | tuple):
        raise DataError(f"{where} is {type(given).__name__}, not a list")
    return [_turn(one, f"{where}[{number}]") for number, one in enumerate(given)]


def _turn(given: Any, where: str) -> Turn:
    if not isinstance(given, dict):
        raise DataError(f"{where} is {type(given).__name__}, not an object")
    # Keys that a table has for other turns are null in this one.
    given = {key: value for key, value in given.items() if value is not None}
    said = given.get("role", given.get("from"))
    called = said.lower() if isinstance(said, str) else ""
    role = ROLES.get(called)
    if role is None:
        raise DataError(
            f"{where} is of {ascii(said)[:60]}, no role that is known. Wanted: {', '.join(ROLES)}"
        )
    text = _content(given.get("content", given.get("value", "")), where)
    calls = given.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        raise DataError(f"{where}'s tool_calls is {type(calls).__name__}, not a list")
    if called == "function_call":
        calls, text = _called(text, where), ""
    reasoning = next((given[key] for key in _REASONING if given.get(key)), "")
    if not (calls or reasoning) and "content" not in given and "value" not in given:
        raise DataError(f"{where} says nothing: no content, no value and no tool_calls")
    return Turn(
        role,
        text,
        weight(given.get("weight"), f"{where}'s"),
        string(reasoning),
        tuple(_call(call, where) for call in calls),
        string(given.get("name") or ""),
    )


def _content(given: Any, where: str) -> str:
    """A string, or a list of parts that are all text."""
    if isinstance(given, list):
        for part in given:
            if not isinstance(part, dict) or not isinstance(part.get("text"), str):
                raise DataError(f"{where} has a part that is no text")
        # Joined here and not by a template, so that a control string in two parts is seen whole.
        return "".join(part["text"] for part in given)
    return string(given)


def _called(text: str, where: str) -> list[Any]:
    found = _json(text, f"{where}, a function call,")
    return found if isinstance(found, list) else [found]


def _call(given: Any, where: str) -> dict[str, Any]:
    """{"name", "arguments"} of OpenAI's form or of the bare one; arguments as an object where they are one."""
    inner = given.get("function", given) if isinstance(given, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise DataError(f"{where} calls a function that has no name")
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _json(arguments, f"{where}, arguments of {inner['name'][:40]!a},")
    return {"name": inner["name"], "arguments": arguments}


def _tools(given: Any) -> tuple[dict[str, Any], ...]:
    if isinstance(given, str):
        given = _json(given, "tools") if given.strip() else []
    if given in (None, [], {}):
        return ()
    if not isinstance(given, list) or not all(isinstance(tool, dict) for tool in given):
        raise DataError("tools is no list of objects")
    # Bare functions get the shell that templates look into.
    return tuple(
        tool if "function" in tool else {"type": "function", "function": tool} for tool in given
    )


def _json(text: str, where: str) -> Any:
    try:
        return parse_json(text.encode(), where)
    except (UnicodeEncodeError, Damaged) as reason:
        told = str(reason).removeprefix(f"{where}: ").removesuffix(".")
        raise DataError(f"{where} is not JSON ({told})") from reason


def string(given: Any) -> str:
    """What is a string already, or the reason that it is none."""
    if not isinstance(given, str):
        raise DataError(f"{type(given).__name__} stands where text should")
    return given


def weight(given: Any, whose: str) -> float:
    """A weight that can be multiplied by; 1 where none is given."""
    if given is None:
        return 1.0
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given <= LARGEST_WEIGHT:
        raise DataError(f"{whose} weight is {ascii(given)[:40]}. Wanted: a number, 0 or more")
    return float(given)


def texts(given: Any, depth: int = 0) -> Iterator[str]:
    """Every string in it, keys too; what JSON has no word for, and what lies too deep, is refused."""
    if depth > DEEPEST:
        raise DataError(f"more than {DEEPEST} values stand one in another")
    if isinstance(given, str):
        yield given
    elif isinstance(given, Mapping):
        for key, value in given.items():
            yield string(key)
            yield from texts(value, depth + 1)
    elif isinstance(given, tuple | list):
        for value in given:
            yield from texts(value, depth + 1)
    elif isinstance(given, Conversation | Text | Turn):
        yield from texts(vars(given), depth + 1)
    elif isinstance(given, float) and not math.isfinite(given):
        raise DataError(f"{given} stands where a number should")
    elif not (given is None or isinstance(given, int | float | Tokens)):
        # A table can hold dates and bytes, which no template takes.
        raise DataError(f"{type(given).__name__} stands where text or a number should")


def check(text: str) -> None:
    """Refuses a text that no tokenizer takes, or that holds what rendering marks text with."""
    reason = unusable(text)
    if not reason and not NONCHARACTERS.isdisjoint(text):
        reason = "a character between U+FDD0 and U+FDEF, which stand for no text"
    if reason:
        raise DataError(reason)
