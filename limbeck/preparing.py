"""Prepares every text of a recipe by many processes: `limbeck train` finds what `limbeck prepare` has made."""

from __future__ import annotations

import os
from dataclasses import replace

from limbeck import assembly, loading
from limbeck.assembly import Ground
from limbeck.data.inputs import KINDS, ROWS, inputs
from limbeck.data.loader import PackedSource
from limbeck.errors import Interrupted
from limbeck.progress import say
from limbeck.recipe import Part, Recipe
from limbeck.sources.chat import listed_entry
from limbeck.types import Source

JUDGING = "evaluate.source"


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def prepare(recipe: Recipe, workers: int | None = None) -> None:
    """Prepares what is missing, and says of each text what it became. Loads no weights."""
    for where, part in _texts(recipe):
        _look(part, where)
    base = replace(assembly.ground(recipe), workers=workers or cores())
    try:
        for where, part in _texts(recipe):
            source = assembly.source(base, part, where, shuffled=where != JUDGING)
            say(f"{where}: {told(source, base)}")
        assembly.held_out(base)
    except KeyboardInterrupt as reason:
        raise Interrupted(
            "prepare: stopped. Parts that are whole are kept: the same command goes on."
        ) from reason


def _texts(recipe: Recipe) -> list[tuple[str, Part]]:
    """Each source of a recipe once, and where it stands."""
    found = [(f"stages[{n}].source", stage.source) for n, stage in enumerate(recipe.stages)]
    if recipe.evaluate is not None:
        found.append((JUDGING, recipe.evaluate.source))
    return [one for n, one in enumerate(found) if one[1] not in [part for _, part in found[:n]]]


def _look(part: Part, where: str) -> None:
    """Raises where a text is not there, before another is worked on for hours."""
    _, options = loading.checked(part, "sources", where)
    split = options.get("split", "train")
    if part.name == "text":
        inputs(options["path"], split, kinds=KINDS)
    if part.name == "chat":
        listed = listed_entry(options["path"], options.get("dataset"))
        path = listed.path if listed else options["path"]
        inputs(path, listed.split or split if listed else split, kinds=ROWS)


def told(source: Source, base: Ground) -> str:
    """What a text became, in one line."""
    rows = f"{source.rows:,} rows of {source.length:,} tokens"
    if not isinstance(source, PackedSource) or source.prepared is None:
        return f"{rows}; nothing is prepared for it."
    found = source.prepared
    counts = found.about["counts"]
    line = (
        f"{counts['tokens']:,} tokens of {counts['documents']:,} documents, {rows}; {found.folder}"
    )
    if not found.fresh:
        return f"{line} was there already."
    rate = found.fresh / found.seconds
    whole = "" if found.fresh == counts["tokens"] else f" {found.fresh:,} of them"
    return f"{line}; made{whole} in {found.seconds:,.1f} s, {rate:,.0f} tokens/s, by up to {base.workers} processes."
