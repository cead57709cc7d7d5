"""Marks in what is said, by which it is found again in what a template made of it, and told from the template's own.

Before the first character of a text that is no space stands its number, after the last an end: a template that trims
trims as before. After each character that a control string may begin with stands a break, so that whole ones in the
rendered text are the template's. What is left without the marks must be what the template makes of the unmarked text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from limbeck.data.controls import Controls, Span
from limbeck.data.turns import Conversation, Turn

_OPEN, _CLOSE, _END, _BREAK = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
_MARK = re.compile(f"{_OPEN}(\\d{{1,9}}){_CLOSE}|[{_END}{_BREAK}]")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", re.S)


@dataclass
class Messages:
    """A conversation as templates take it. leaves: for each mark, (the turn, -1 of a tool; what it is of it)."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    leaves: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Found:
    """A rendered text without its marks. leaves: {mark: its place}, but for those that stand twice; breaks: places."""

    text: str
    leaves: dict[int, Span]
    breaks: frozenset[int]
    twice: frozenset[int]

    def written(self, controls: Controls) -> list[Span]:
        """The control strings that the template wrote itself, and no part of them anybody else."""
        matches = (match.span() for match in controls.pattern.finditer(self.text))
        return [
            (begin, end)
            for begin, end in matches
            if self.breaks.isdisjoint(range(begin + 1, end + 1))
            and not any(first < end and begin < last for first, last in self.leaves.values())
        ]


def plain_messages(given: Conversation) -> Messages:
    """The messages and tools of a conversation, unmarked."""
    return _messages(given, lambda text, _turn, _what: text, lambda text: text)


def marked_messages(given: Conversation, controls: Controls) -> Messages:
    """The same with marks."""
    made = Messages([], [])
    first = (
        re.compile(f"([{re.escape(controls.firsts)}])") if controls.firsts else re.compile("(?!)()")
    )

    def broken(text: str) -> str:
        return first.sub(rf"\1{_BREAK}", text)

    def marked(text: str, turn: int, what: str) -> str:
        inner = text.strip()
        if not inner:
            return text
        begin = text.index(inner)
        made.leaves.append((turn, what))
        number = f"{_OPEN}{len(made.leaves) - 1}{_CLOSE}"
        return f"{text[:begin]}{number}{broken(inner)}{_END}{text[begin + len(inner) :]}"

    found = _messages(given, marked, broken)
    return replace(found, leaves=made.leaves)


def _messages(given: Conversation, marked: Any, broken: Any) -> Messages:
    messages = []
    for number, turn in enumerate(given.turns):
        one: dict[str, Any] = {"role": turn.role, "content": marked(turn.text, number, "text")}
        if turn.reasoning:
            one["reasoning_content"] = marked(turn.reasoning, number, "reasoning")
        if turn.name:
            one["name"] = broken(turn.name)
        if turn.calls:
            one["tool_calls"] = [
                {
                    "type": "function",
                    "function": {
                        "name": marked(call["name"], number, "call"),
                        "arguments": _inside(call["arguments"], broken),
                    },
                }
                for call in turn.calls
            ]
        messages.append(one)
    tools = [_tool(tool, marked, broken) for tool in given.tools]
    return Messages(messages, tools)


def _tool(tool: Mapping[str, Any], marked: Any, broken: Any) -> dict[str, Any]:
    made: dict[str, Any] = _inside(tool, broken)
    function = tool.get("function")
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        made["function"]["name"] = marked(function["name"], -1, "tool")
    return made


def _inside(given: Any, change: Any) -> Any:
    """A value of JSON with every string in it changed, keys too."""
    if isinstance(given, str):
        return change(given)
    if isinstance(given, Mapping):
        return {change(key): _inside(value, change) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return [_inside(value, change) for value in given]
    return given


def found(text: str) -> Found:
    """Reads the marks of a rendered text."""
    parts: list[str] = []
    leaves: dict[int, Span] = {}
    breaks, twice = set[int](), set[int]()
    open_: tuple[int, int] | None = None
    before = place = 0
    for match in _MARK.finditer(text):
        parts.append(text[before : match.start()])
        place += match.start() - before
        before = match.end()
        if match[1]:
            open_ = (int(match[1]), place)
        elif match[0] == _BREAK:
            breaks.add(place)
        elif open_ is not None:
            number, begin = open_
            if number in leaves:
                twice.add(number)
            leaves[number] = (begin, place)
            open_ = None
    parts.append(text[before:])
    return Found("".join(parts), leaves, frozenset(breaks), frozenset(twice))


def thought(given: Conversation) -> Conversation:
    """The same, with what the assistant thinks taken out of its text into a field of its own.

    Templates that look for '<think>' in a text do the same by themselves.
    """
    turns = []
    for turn in given.turns:
        match = _THOUGHT.fullmatch(turn.text) if turn.role == "assistant" else None
        turns.append(_divided(turn, match) if match and not turn.reasoning else turn)
    return replace(given, turns=tuple(turns))


def _divided(turn: Turn, match: re.Match[str]) -> Turn:
    return replace(turn, reasoning=match[1], text=match[2].lstrip("\n"))
