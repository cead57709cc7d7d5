"""From the journal to what a student reads: rows split by prompt, and a list of what is missing and why."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck import files
from limbeck.data.sieve import unusable
from limbeck.generating.filtering import Filter, filtered
from limbeck.generating.journal import Told
from limbeck.generating.ledger import Ledger
from limbeck.generating.loaded import dump
from limbeck.generating.prompts import Plan, Wanted
from limbeck.generating.settings import Generation
from limbeck.provenance import versions
from limbeck.sampling.answers import Answer
from limbeck.sampling.secret import Secret

_THOUGHTS = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)", re.DOTALL)
# A server's template may have written the opening itself.
_CLOSED = re.compile(r"\A(?:(?!<think>).)*?</think>", re.DOTALL)


@dataclass
class Rows:
    """What became of all that is wanted. counts: how many each filter left out. left: what was neither answered nor failed."""

    train: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    filtered: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    left: int = 0


def held_out(prompt: str, share: float) -> bool:
    """Whether a prompt is kept for judging: a property of its text, so that all its answers go with it."""
    return files.in_share(prompt.strip().encode(), share)


def said(answer: Answer, reasoning: str) -> str:
    """What a student is to say, without thoughts or with them."""
    if reasoning == "keep":
        thought = f"<think>\n{answer.reasoning.strip()}\n</think>\n\n" if answer.reasoning else ""
        return thought + answer.text
    text = _THOUGHTS.sub("", answer.text, count=1) if _THOUGHTS.match(answer.text) else answer.text
    return _CLOSED.sub("", text, count=1).strip()


def rows(
    asked: Generation, plan: Plan, told: Told, filters: Sequence[tuple[str, Filter]] = ()
) -> Rows:
    """Every answer as a row, in the order of the plan, but those that filters leave out."""
    found, fit = Rows(), list[dict[str, Any]]()
    for one in plan.wanted:
        answer = told.answers.get(one.asked.id)
        if answer is None:
            reason = told.failed.get(one.asked.id)
            if reason is None:
                found.left += 1
            else:
                found.failed.append(_failed(one, reason))
            continue
        text = said(answer, asked.sampling.reasoning)
        if reason := _unfit(text, answer):
            found.failed.append(_failed(one, reason) | {"answered": True})
        else:
            fit.append(_row(asked, one, answer, text))
    kept, found.filtered, found.counts = filtered(fit, filters)
    for row in kept:
        side = held_out(row["prompt"], asked.held_out)
        (found.held_out if side else found.train).append(row)
    return found


def _unfit(text: str, answer: Answer) -> str:
    if text.strip():
        return unusable(text)
    thought = " but thoughts" if answer.reasoning or answer.text.strip() else ""
    return f"an empty answer: it ended with '{answer.finish}' and holds nothing{thought}"


def _failed(one: Wanted, reason: str) -> dict[str, Any]:
    return {
        "id": one.asked.id,
        "draw": one.draw,
        "reason": reason,
        "prompt": one.prompt.text,
        **one.prompt.beside,
    }


def _row(asked: Generation, one: Wanted, answer: Answer, text: str) -> dict[str, Any]:
    system = {"system": one.prompt.system} if one.prompt.system else {}
    return {
        **one.prompt.beside,
        **system,
        "prompt": one.prompt.text,
        "response": text,
        "id": one.asked.id,
        "draw": one.draw,
        "teacher": asked.teacher.model,
        "finish": answer.finish,
        "tokens": answer.tokens_out,
    }


def write(folder: Path, asked: Generation, found: Rows, ledger: Ledger, key: Secret) -> None:
    """Writes the rows, each file whole, and the manifest last: a folder without one is not finished."""
    for name in ("train", "held_out", "failed", "filtered"):
        encoded = b"".join(_lines(getattr(found, name), key))
        files.write_bytes(folder / f"{name}.jsonl", encoded)
    files.write_bytes(folder / "recipe.yaml", key.hide(dump(asked)).encode())
    about = {
        "kind": "generated text",
        "name": asked.name,
        "teacher": asked.teacher.model,
        "rows": {"train": len(found.train), "held_out": len(found.held_out)},
        "failed": len(found.failed),
        "filtered": found.counts,
        "left": found.left,
        "spent": ledger.spent,
        "versions": versions(("limbeck", "httpx2")),
    }
    files.seal(folder, key.hide(about))


def _lines(given: list[dict[str, Any]], key: Secret) -> Iterator[bytes]:
    for row in given:
        text = json.dumps(key.hide(row), ensure_ascii=False, allow_nan=False)
        yield text.encode() + b"\n"
