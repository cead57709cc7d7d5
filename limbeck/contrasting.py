"""Several runs beside each other: seeds as one, paired on the rows that all were judged on, and who is beaten by nobody."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from limbeck import files, names
from limbeck.confidence import ROLES
from limbeck.errors import LimbeckError
from limbeck.intervals import LEAST, Resampled, figures
from limbeck.report import collect, shapes, tables
from limbeck.report import contrast as drawn
from limbeck.report.entries import Entry, Judged

MEASURES = (("bits_per_byte", "bits_per_byte"), ("agreement", "kl_to_teacher"))
"""What runs are compared by: (measure, figure), both lower where better."""
_FREE = ("name", "seed", "runs", "resume", "log_every", "evaluate", "track", "telemetry", "card")
_SEED = re.compile(r"[-_.]?(seed[-_]?)?\d+$")


def show(paths: Sequence[Path], html: Path | None, json: Path | None) -> Iterator[Table | str]:
    """What is printed of a comparison; writes the page and the file that are asked for."""
    entries = contrast(paths)
    headings, rows = drawn.table(entries)
    # A column a run: what is told of one is long, and a terminal is narrow.
    first, *others = zip(headings, *rows, strict=True)
    table = Table(*map(escape, first), title="On held-out text; intervals hold 95 %")
    for line in others:
        table.add_row(*map(escape, line))
    yield table
    if any(not one.paired for one in entries):
        yield "Some were judged on other rows: bits per byte compare, but unpaired; KL does not."
    if html is not None:
        files.write_bytes(html, drawn.html(entries).encode())
        yield f"Page: {escape(str(html))}"
    if json is not None:
        files.write_json(json, drawn.plain(entries))
        yield f"File: {escape(str(json))}"


def contrast(paths: Sequence[Path]) -> list[Entry]:
    """An entry for each kind of run in the order given, then the control and the teacher that they share."""
    if len(set(map(Path.resolve, paths))) != len(paths):
        raise LimbeckError("compare: a run is named twice. Wanted: each once.")
    groups: dict[str, Entry] = {}
    for path, name in zip(paths, _called(paths), strict=True):
        for key, one in _models(path):
            title = name if one.model == "student" else f"{one.model} of {name}"
            groups.setdefault(key, Entry(title, [])).runs.append(one)
    entries = [one for role in ROLES for one in groups.values() if one.first.model == role]
    teachers = [one for one in entries if one.first.model == "teacher"]
    if len(teachers) == 1:
        teachers[0].title = "teacher"
    _named_apart(entries)
    for entry in entries:
        _judged(entry, entries[0])
    return entries


def _models(path: Path) -> list[tuple[str, Judged]]:
    """The models of a run, each with what makes it the same as another run's but for seeds."""
    facts = collect.facts(path)
    if not facts.figures:
        raise LimbeckError(
            f"compare: {path} has no figures. Wanted: 'limbeck evaluate {path}' first."
        )
    same = {key: value for key, value in facts.settings.items() if key not in _FREE}
    prints = facts.provenance.get("prints", {})
    teacher = prints.get("teacher") or _teacher(same)
    # Whatever the student's arm was told of it, the control learns from labels alone.
    alone = {
        "student": same.get("student"),
        "begins": _begins(same, prints, teacher),
        "stages": _plain_stages(same),
    }
    identity = {"student": same, "control": alone, "teacher": teacher}
    rows, of = _rows(path)
    found = []
    for model in tables.models(facts.figures):
        kind = files.digest(files.canonical([model, identity.get(model, same)]))
        mine = {measure: sums[model] for measure, sums in rows.items() if model in sums}
        found.append((kind, Judged(facts, model, facts.settings.get("seed", 0), mine, of)))
    return found


def _begins(recipe: dict[str, Any], prints: dict[str, Any], teacher: Any) -> list[Any]:
    """Whose weights and whose tokenizer a student begins with: fingerprints, where the run's provenance has them.

    Without a model of its own it begins as a part of the teacher, unless its weights are drawn.
    """
    own = prints.get("student") or _named(recipe.get("student"))
    part = recipe.get("student")
    drawn = "scratch" in part if isinstance(part, str | dict) else part is None
    tokenizer = prints.get("tokenizer") or recipe.get("tokenizer") or teacher or own
    return [own or (None if drawn else teacher), tokenizer]


def _teacher(recipe: dict[str, Any]) -> Any:
    """What a teacher is, however it was asked: live, or from a cache."""
    return _named(recipe.get("teacher")) or recipe.get("teacher")


def _named(part: Any) -> list[Any] | None:
    """The model that a part of a recipe names, and its revision."""
    options = next(iter(part.values())) if isinstance(part, dict) and len(part) == 1 else None
    name = options.get("model") if isinstance(options, dict) else None
    return [name, options.get("revision")] if isinstance(options, dict) and name else None


def _plain_stages(recipe: dict[str, Any]) -> list[Any]:
    kept = ("source", "budget", "rows_per_step", "optimizer", "train")
    return [{key: stage.get(key) for key in kept} for stage in recipe.get("stages", [])]


def _rows(path: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    rows, of = {}, {}
    for measure, _ in MEASURES:
        file = path / "evaluation" / f"{measure}.json"
        found = tables.table(file, shapes.MeasuredRows) if file.is_file() else None
        if found is not None and "row_sums" in found:
            rows[measure], of[measure] = found["row_sums"], found["rows_of"]
    return rows, of


def _called(paths: Sequence[Path]) -> list[str]:
    """Names of runs: their folders', with as many of the folders above as tell one from another."""
    whole = [path.resolve().parts for path in paths]
    return [
        next(
            str(Path(*parts[-count:]))
            for count in range(1, len(parts) + 1)
            if sum(other[-count:] == parts[-count:] for other in whole) == 1
        )
        for parts in whole
    ]


def _named_apart(entries: list[Entry]) -> None:
    """Several seeds are called by what their names share, unless that names another entry as well."""
    short = {id(one): _SEED.sub("", one.title) or one.title for one in entries}
    names_ = list(short.values())
    for one in entries:
        if len(one.runs) > 1 and names_.count(short[id(one)]) == 1:
            one.title = short[id(one)]


def _judged(entry: Entry, base: Entry) -> None:
    """Intervals of an entry's figures, and of how far they are from the first entry's."""
    for measure, key in MEASURES:
        mine, theirs = _sums(entry, measure), _sums(base, measure)
        if mine is None or len(next(iter(mine.values()))) < LEAST:
            continue
        finish = sys.modules[names.find("evaluation", measure).__module__].finish
        draws = Resampled(len(next(iter(mine.values()))))
        found = figures(draws, mine, finish)[key]
        if one := draws.interval(found):
            entry.intervals[key] = one
        if theirs is None or entry is base:
            continue
        if entry.first.of[measure] == base.first.of[measure]:
            other = figures(draws, theirs, finish)[key]
        elif measure == "bits_per_byte" and len(next(iter(theirs.values()))) >= LEAST:
            entry.paired = False
            # Other rows, such as another tokenizer makes of the same text: drawn by themselves.
            apart = Resampled(len(next(iter(theirs.values()))), seed=1)
            other = _as_long(figures(apart, theirs, finish)[key], apart.blocks, draws.blocks)
        else:
            continue
        if difference := draws.interval(found - other):
            entry.against[key] = difference


def _as_long(values: Any, blocks: int, wanted: int) -> Any:
    """The draws of other rows with as many of them left out once; leaving one out says nothing of the other side."""
    return np.concatenate([values[:1], np.full(wanted, values[0]), values[blocks + 1 :]])


def _sums(entry: Entry, measure: str) -> dict[str, Any] | None:
    """Sums of each row, the mean over seeds; None where a seed has none, or other rows."""
    every = [one.rows.get(measure) for one in entry.runs]
    same = all(one.of.get(measure) == entry.first.of.get(measure) for one in entry.runs)
    if not same or any(one is None for one in every):
        return None
    first = every[0]
    assert first is not None
    return {name: np.mean([one[name] for one in every if one], axis=0) for name in first}
