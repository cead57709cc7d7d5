"""A judge reads what filters have left: asked, journalled and paid as a teacher is, and heard only in a closed schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from limbeck.errors import Interrupted, LimbeckError
from limbeck.generating import journal as lines
from limbeck.generating.answering import answered
from limbeck.generating.journal import Journal
from limbeck.generating.prompts import Plan, Prompt, Wanted, identity
from limbeck.generating.results import Rows, said
from limbeck.generating.settings import Generation, Judge, Sampling
from limbeck.progress import say
from limbeck.sampling.answers import Answer, Asked
from limbeck.sampling.secret import from_environment
from limbeck.spelling import Frozen

JOURNAL = "judge.jsonl"
NAME = "judge"
Row = dict[str, Any]


class Verdict(Frozen):
    """All that a judge can say."""

    score: int = Field(ge=1, le=10, strict=True)


def judge(asked: Generation, here: Rows, folder: Path, stop: Callable[[], bool]) -> None:
    """Gives each row a score, and leaves out those below the least, and those of which there is no verdict.

    Raises Interrupted or LimbeckError where the judge could not be asked about all; what it said is kept.
    """
    told_to = asked.judge
    assert told_to
    as_asked = _generation(asked, told_to)
    rows = [*here.train, *here.held_out]
    plan = Plan(tuple(_wanted(as_asked, told_to, row) for row in rows), len(rows), 0)
    told, remote = lines.read(folder / JOURNAL), told_to.teacher.remote
    key = from_environment(remote.key if remote else None)
    journal = Journal(folder / JOURNAL, told, key)
    ledger, ended = answered(as_asked, plan, journal, key, stop, title=NAME)
    spent = f"; spent {ledger.spent:.4f}" if told_to.prices else ""
    if ended == "stopped":
        raise Interrupted(
            f"Stopped while judging{spent}. Every verdict is kept; the same command goes on."
        )
    if ended:
        why = "judge.spend.cap is reached" if ended == "capped" else ended
        raise LimbeckError(
            f"judge: {why}{spent}. Every verdict is kept. Mend it, and the same command goes on."
        )
    kept = dict[str, int]()
    for row, one in zip(rows, plan.wanted, strict=True):
        score, reason = _verdict(told.answers.get(one.asked.id), told.failed.get(one.asked.id, ""))
        if not reason and score < told_to.least:
            reason = f"a score of {score}, below {told_to.least}"
        if reason:
            here.filtered.append(row | {"filter": NAME, "reason": reason})
        else:
            kept[row["id"]] = score
    here.counts[NAME] = len(rows) - len(kept)
    here.train, here.held_out = (
        [row | {"score": kept[row["id"]]} for row in side if row["id"] in kept]
        for side in (here.train, here.held_out)
    )
    say(f"judge: {here.counts[NAME]:,} of {len(rows):,} rows left out{spent}.")


def _generation(asked: Generation, told_to: Judge) -> Generation:
    """The judge as a teacher: one answer to each question, the likeliest."""
    drawing = Sampling(temperature=0, top_p=None, max_tokens=told_to.max_tokens)
    changes = {"teacher": told_to.teacher, "prices": told_to.prices, "spend": told_to.spend}
    return asked.model_copy(update=changes | {"sampling": drawing})


def _wanted(asked: Generation, told_to: Judge, row: Row) -> Wanted:
    slots = {"{prompt}": row["prompt"], "{response}": row["response"]}
    # Each slot once and from the left: what was said may have braces of its own.
    text, left = "", told_to.question
    while found := sorted((left.find(slot), slot) for slot in slots if slot in left):
        place, slot = found[0]
        text, left = text + left[:place] + slots[slot], left[place + len(slot) :]
    prompt = Prompt(text + left)
    return Wanted(prompt, 0, Asked(identity(asked, prompt, 0), prompt.text))


def _verdict(answer: Answer | None, failed: str) -> tuple[int, str]:
    """The score, or 0 and why there is none."""
    if answer is None:
        return 0, f"no verdict: {failed or 'not asked'}"
    text = said(answer, "strip").strip()
    if text.startswith("```") and text.endswith("```"):
        text = text.strip("`").removeprefix("json").strip()
    try:
        return Verdict.model_validate_json(text).score, ""
    except ValidationError:
        return 0, f"no verdict: {text[:80]!r}"
