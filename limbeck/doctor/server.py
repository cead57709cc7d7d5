"""A teacher on a server, asked a few questions: is it there, has it these words, does it tell enough."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from limbeck import assembly, recorded
from limbeck.doctor.case import Case
from limbeck.doctor.findings import Finding, Findings, attempted, note, ok
from limbeck.recipe import Part
from limbeck.sampling import secret
from limbeck.sampling.scorer import Scores
from limbeck.teachers.remote import Remote

# A run waits for a server that comes back; who only asks whether it is there does not.
_TRIES, _SECONDS = 2, 60.0


def server(case: Case) -> Findings:
    """The server of a remote teacher, or of the one behind a cache."""
    part = case.recipe.teacher
    if part is None or part.name not in ("remote", "cached"):
        return
    given = recorded.options(case.recipe).get("server")
    if isinstance(given, Scores):
        where = f"teacher.{part.name}.server"
        yield from attempted(f"{where}.key", partial(_key, given, where))
        yield from attempted(where, partial(_proved, case, part, given, where))


def _key(given: Scores, where: str) -> list[Finding]:
    secret.from_environment(given.key)
    if given.key is None:
        return [note("no key is sent.", where)]
    return [ok(f"the environment variable {given.key} holds a key.", where)]


def _proved(case: Case, part: Part, given: Scores, where: str) -> list[Finding]:
    quick = {
        "tries": min(given.tries, _TRIES),
        "first_wait": min(given.first_wait, 1.0),
        "longest_pause": min(given.longest_pause, _SECONDS),
        "seconds": min(given.seconds, _SECONDS),
    }
    k = part.options.get("k", 20 if part.name == "remote" else 64)
    asked = Part(name="remote", options={"server": given.model_copy(update=quick), "k": k})
    base = case.base()
    found = assembly.teacher(
        replace(base, recipe=base.recipe.model_copy(update={"teacher": asked}))
    )
    assert isinstance(found, Remote)
    return [ok(f"{given.url}: {found.proof()}.", where)]
