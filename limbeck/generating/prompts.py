"""The plan: every prompt, once, with what stands beside it, and an id for each answer that is wanted."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

from limbeck import files
from limbeck.data import documents
from limbeck.data.inputs import ROWS, inputs
from limbeck.data.records import records
from limbeck.data.sieve import Sieve, unusable
from limbeck.errors import RecipeError
from limbeck.generating.settings import Documents, Generation, Template
from limbeck.names import suggestion
from limbeck.sampling.answers import Asked

BYTES_A_TOKEN = 4
# Roles, marks and what else a server's template writes around a prompt.
AROUND = 64
# Keys of which a row would be read in another layout, or that are written anew.
_LEFT_OUT = {
    *("messages", "conversations", "input_ids", "completion", "instruction", "output", "text"),
    *("prompt", "response", "system", "id", "draw", "teacher", "finish", "tokens"),
}
_SLOT = re.compile(r"\{\{|\}\}|\{(\w*)\}")


@dataclass(frozen=True)
class Prompt:
    """What is asked, and what of its row is kept beside the answer, such as category and language."""

    text: str
    system: str | None = None
    beside: dict[str, Any] = field(default_factory=dict)

    @property
    def most_tokens(self) -> int:
        """More than a tokenizer can make of it: a token has a byte at least."""
        return len((self.text + (self.system or "")).encode()) + AROUND

    @property
    def likely_tokens(self) -> int:
        """About what a tokenizer makes of it."""
        return len((self.text + (self.system or "")).encode()) // BYTES_A_TOKEN + 8


@dataclass(frozen=True)
class Wanted:
    """One draw of a prompt, and the request for it."""

    prompt: Prompt
    draw: int
    asked: Asked


@dataclass(frozen=True)
class Plan:
    """All that is wanted, in order. double: prompts that stood there before, and are asked once."""

    wanted: tuple[Wanted, ...]
    prompts: int
    double: int


def plan(asked: Generation) -> Plan:
    """Reads or makes the prompts, and names every answer that is wanted of them."""
    seen, double = dict[tuple[str, str | None], Prompt](), 0
    for prompt in _prompts(asked):
        key = (prompt.text, prompt.system)
        double += key in seen
        seen.setdefault(key, prompt)
    if not seen:
        raise RecipeError("prompts: there is none.")
    wanted = tuple(
        Wanted(prompt, draw, Asked(identity(asked, prompt, draw), prompt.text, prompt.system))
        for prompt in seen.values()
        for draw in range(asked.sampling.n)
    )
    return Plan(wanted, len(seen), double)


def identity(asked: Generation, prompt: Prompt, draw: int) -> str:
    """Names prompt, settings, model and draw. Where the server is belongs to none of them."""
    teacher = asked.teacher
    body = teacher.remote.body if teacher.remote else {}
    local = [teacher.local.revision, teacher.local.template] if teacher.local else []
    drawing = asked.sampling.drawing
    whole = [
        *(teacher.shape, teacher.model, body, local, asked.seed, draw),
        *(drawing.temperature, drawing.top_p, drawing.max_tokens, prompt.text, prompt.system),
    ]
    return files.digest(files.canonical(whole))[:32]


def _prompts(asked: Generation) -> Iterator[Prompt]:
    given = asked.prompts
    if given.file is not None:
        yield from _rows(given.file, given.system)
    elif given.template is not None:
        yield from filled(given.template, asked.seed, given.system)
    elif given.documents is not None:
        yield from _begun(given.documents, given.system)


def _rows(path: str, system: str | None) -> Iterator[Prompt]:
    for record in records(inputs(path, kinds=ROWS), Sieve(), split="train"):
        row = {key: value for key, value in record.row.items() if value is not None}
        text, own = _asked(row), row.get("system", system)
        if not isinstance(text, str) or not text.strip() or not isinstance(own, str | None):
            raise RecipeError(
                f"prompts.file: {record.where}: no prompt. Wanted: 'prompt', or 'instruction' with or without 'input', "
                "strings of which the first is not empty, and 'system', if there, a string."
            )
        if reason := unusable(text) or unusable(own or ""):
            raise RecipeError(f"prompts.file: {record.where}: {reason}.")
        joined = {"input"} if "prompt" not in row else set[str]()
        beside = {key: value for key, value in row.items() if key not in _LEFT_OUT | joined}
        try:
            files.canonical(beside)
        except (TypeError, ValueError) as problem:
            raise RecipeError(
                f"prompts.file: {record.where}: what stands beside the prompt is no JSON ({problem})."
            ) from problem
        yield Prompt(text, own, beside)


def _asked(row: dict[str, Any]) -> Any:
    """The prompt of a row; an instruction and its input as the source `chat` joins them."""
    if "prompt" in row or "instruction" not in row:
        return row.get("prompt")
    asked, given = row["instruction"], row.get("input") or ""
    if not isinstance(asked, str) or not isinstance(given, str) or not asked.strip():
        return None
    return f"{asked}\n{given}" if given else asked


def filled(template: Template, seed: int, system: str | None) -> Iterator[Prompt]:
    """Combinations of the slots' values, drawn without putting back. A text is combined with the slots that stand in it alone."""
    texts = template.text if isinstance(template.text, dict) else {"": template.text}
    used = {category: _slots(text, template) for category, text in texts.items()}
    for name in template.slots:
        stands = any(name in names for names in used.values())
        if not stands or name in (*_LEFT_OUT, "category") or not template.slots[name]:
            raise RecipeError(
                f"prompts.template.slots: '{name}' has no value, does not stand in the text, or is a name that rows need."
            )
    sizes = {
        category: prod(len(template.slots[name]) for name in names)
        for category, names in used.items()
    }
    total = sum(sizes.values())
    if total > sys.maxsize:
        raise RecipeError(
            f"prompts.template.slots: {total:.0e} combinations, more than can be numbered. Take fewer slots or values."
        )
    count = total if template.count is None else template.count
    if count > total:
        raise RecipeError(
            f"prompts.template.count: found {count:,}; the slots have {total:,} combinations. Give more values, or "
            "raise sampling.n for more answers to each."
        )
    for number in random.Random(seed).sample(range(total), count):  # noqa: S311 (no secret)
        category, left = _place(number, sizes)
        values = {}
        for name in used[category]:
            left, place = divmod(left, len(template.slots[name]))
            values[name] = template.slots[name][place]
        beside = ({"category": category} if category else {}) | values
        yield Prompt(_with(texts[category], values), system, beside)


def _place(number: int, sizes: dict[str, int]) -> tuple[str, int]:
    """Which of the categories, laid end to end, a number falls into, and where in it."""
    for category, size in sizes.items():
        if number < size:
            return category, number
        number -= size
    raise AssertionError  # there are only so many


def _slots(text: str, template: Template) -> list[str]:
    """The slots that stand in a text, in the order of the recipe."""
    there = {name for name in _SLOT.findall(text) if name}
    names = list(template.slots)
    for name in sorted(there - set(names)):
        raise RecipeError(
            f"prompts.template.text: no slot '{name}'.{suggestion(name, names)} A brace is written twice: {{{{."
        )
    return [name for name in names if name in there]


def _with(text: str, values: dict[str, str]) -> str:
    def put(found: re.Match[str]) -> str:
        return values[found[1]] if found[1] else found[0][0]

    return _SLOT.sub(put, text)


def _begun(given: Documents, system: str | None) -> Iterator[Prompt]:
    """The beginning of each document, up to the end of a word."""
    most = given.tokens * BYTES_A_TOKEN
    for number, document in enumerate(documents.read(given.path, field=given.field)):
        if number == given.count:
            return
        raw = document.text.encode()
        text = raw[:most].decode(errors="ignore")
        if len(raw) > most and (end := text.rstrip().rfind(" ")) > 0:
            text = text[:end]
        if text.strip():
            yield Prompt(given.instruction.replace("{text}", text), system)
