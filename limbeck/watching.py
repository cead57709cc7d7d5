"""From a recipe's `watch` to looks at held-out rows: what can be seen of which teacher, and on which rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from limbeck import assembly, loading, names
from limbeck.assembly import Ground
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.evaluation import agreement
from limbeck.progress import say
from limbeck.recipe import Recipe, Stage, Watch
from limbeck.teachers.cached import Cached
from limbeck.training import parallel, watch
from limbeck.training.checkpoint import CROSS_ENTROPY
from limbeck.training.heldout import HeldOut, Measure
from limbeck.training.watch import Best
from limbeck.types import Batch, Source, Teacher

_ALWAYS = {CROSS_ENTROPY: "lower", "loss": "lower"}
"""Figures that every look has; the second is the stage's own objective."""
# What of a teacher each kind of cache keeps, where it is not all of it.
_KEPT = {"sample": "Sampled", "rs": "Sampled", "kl-vector": "HeadMean", "topk+rest": "TopK"}


class Behind:
    """Rows of a source behind its first ones, as a source."""

    def __init__(self, source: Source, rows: range) -> None:
        self._source, self._rows = source, rows
        self.rows, self.length, self.identity = len(rows), source.length, source.identity

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these positions, counted from the first that is served."""
        return self._source.batch([self._rows[place % self.rows] for place in positions])


def figure(recipe: Recipe) -> str:
    """The figure by which checkpoints are judged."""
    return recipe.watch.best if recipe.watch else CROSS_ENTROPY


def compares(recipe: Recipe) -> bool:
    """Whether looks compare with the teacher, whatever the stages learn from it."""
    return recipe.watch is not None and any(one.needs_teacher for one in _measures(recipe.watch))


def learns(recipe: Recipe) -> bool:
    """Whether any stage learns from a teacher."""
    every = [term.name for stage in recipe.stages for term in stage.terms]
    return any(name != "cross_entropy" for name in every)


def check(recipe: Recipe) -> None:
    """Refuses measures that cannot be watched, and a `best` that no look has."""
    asked = recipe.watch
    if asked is None:
        return
    known = dict(_ALWAYS)
    for number, measure in enumerate(_measures(asked)):
        where = f"watch.measures[{number}]"
        if "finish" not in _module(measure):
            raise RecipeError(
                f"{where}: '{measure.name}' measures whole models, not tokens; it cannot be watched. It belongs in "
                "evaluate.measures."
            )
        if [part.name for part in asked.measures].count(asked.measures[number].name) > 1:
            raise RecipeError(f"{where}: '{measure.name}' stands twice; wanted once.")
        if measure.needs_teacher and recipe.teacher is None:
            raise RecipeError(
                f"{where}: '{measure.name}' needs a teacher; the recipe has none. Set watch.measures to [bits_per_byte]."
            )
        known |= _told_by(recipe, measure, where)
    if asked.best in known:
        return
    others = {
        name: of.name
        for of in map(_named, ("bits_per_byte", "agreement"))
        for name in _module(of)["BETTER"]
    }
    if asked.best in others:
        of = others[asked.best]
        watched = of in [part.name for part in asked.measures]
        why = (
            f"a figure of '{of}', which a teacher that is kept as it is here does not tell"
            if watched
            else f"a figure of '{of}', which is not watched: add it to watch.measures, or take another"
        )
        raise RecipeError(f"watch.best: '{asked.best}' is {why}. There are: {', '.join(known)}.")
    raise RecipeError(
        f"watch.best: no figure '{asked.best}'.{names.suggestion(asked.best, [*known, *others])}"
    )


def _told_by(recipe: Recipe, measure: Measure, where: str) -> dict[str, str]:
    """The figures of a measure by which a checkpoint may be judged, and which way they are better."""
    found: dict[str, str] = _module(measure).get("BETTER", {})
    kept = _kept(recipe)
    if measure.function is not agreement.agreement or kept is None:
        return found
    assert recipe.teacher is not None
    given = loading.checked(recipe.teacher, "teachers", "teacher")[1]
    most, wanted = given.get("k", 20 if recipe.teacher.name == "remote" else 64), _k(measure)
    if kept == "TopK" and wanted > most:
        raise RecipeError(
            f"{where}: agreement.k {wanted} found; of this teacher {most} ids are kept. Wanted {most} or less: "
            f"{{agreement: {{k: {most}}}}}."
        )
    return {name: way for name, way in found.items() if name in agreement.OF_KEPT[kept]}


def _k(measure: Measure) -> int:
    return int(measure.options.get("k", 10))


def _kept(recipe: Recipe) -> str | None:
    """The type of what the teacher tells of its distribution; None: all of it."""
    if recipe.teacher is None or recipe.teacher.name not in ("cached", "remote"):
        return None
    kind = recipe.teacher.options.get("kind", "sample")
    return "TopK" if recipe.teacher.name == "remote" else _KEPT.get(kind)


def _named(name: str) -> Measure:
    return Measure(names.find("evaluation", name))


def _measures(asked: Watch) -> list[Measure]:
    found = []
    for number, part in enumerate(asked.measures):
        function, options = loading.checked(part, "evaluation", f"watch.measures[{number}]")
        found.append(Measure(function, options))
    return found


def _module(measure: Measure) -> dict[str, Any]:
    return vars(sys.modules[measure.function.__module__])


def rows(recipe: Recipe, source: Source) -> range:
    """Held-out rows behind those that are measured at the end: what chose a checkpoint must not grade it."""
    first = recipe.evaluate.rows if recipe.evaluate else 0
    key, count = "checkpoints.held_out_rows", recipe.checkpoints.held_out_rows
    if recipe.watch is not None and recipe.watch.rows is not None:
        key, count = "watch.rows", recipe.watch.rows
    found = range(first, first + count)
    if found.stop > source.rows:
        raise RecipeError(
            f"{key}: {count} rows behind the {first} of evaluate.rows are wanted, the "
            f"held-out text has {source.rows}. Lower one of them, or give more text."
        )
    return found


def check_text(base: Ground) -> None:
    """Refuses too little held-out text, once texts are open and before a model is loaded."""
    judges, asked = assembly.held_out(base), base.recipe.watch
    if judges is None or not (asked or base.recipe.checkpoints.keep_best):
        return
    rows(base.recipe, judges)
    teacher = base.recipe.teacher
    if asked is None or teacher is None or teacher.name != "cached":
        return
    for stage in base.recipe.stages:
        length = assembly.stage_source(base, stage).length
        if length != judges.length:
            why = f"Rows of {length} tokens are recorded, held-out rows have {judges.length}."
            _best(base.recipe, asked, stage, without=why)


def recorded(base: Ground, length: int) -> tuple[Source, int] | None:
    """The held-out rows that a cache needs besides those of the stages; None where nobody looks, or rows are longer."""
    judges = assembly.held_out(base) if base.recipe.watch else None
    if judges is None or judges.length != length:
        return None
    found = Behind(judges, rows(base.recipe, judges))
    return found, found.rows


def made(
    base: Ground,
    stage: Stage,
    teacher: Teacher | None,
    *,
    wanted: Sequence[Any],
    world: parallel.World,
) -> watch.Watch | None:
    """The looks of a stage, or None where the recipe asks for none. wanted: the stage's objectives."""
    asked, judges = base.recipe.watch, assembly.held_out(base)
    if asked is None or judges is None:
        return None
    held = HeldOut(
        source=judges,
        rows=rows(base.recipe, judges),
        measures=tuple(_measures(asked)),
        teacher=teacher,
        world=world,
        micro_rows=stage.micro_rows,
    )
    lacking = _lacking(held, wanted)
    if lacking:
        held = replace(held, teacher=None)
        say(f"watch, stage {stage.name}: looks leave out what needs the teacher. {lacking}")
    best = _best(base.recipe, asked, stage, without=lacking)
    keep = base.recipe.checkpoints
    tokens = stage.rows_per_step * assembly.stage_source(base, stage).length
    return watch.Watch(
        held,
        every=asked.every.steps(tokens),
        best=best,
        patience=asked.patience,
        judged_every=keep.every if keep.keep_best else None,
    )


def _lacking(held: HeldOut, terms: Sequence[Any]) -> str:
    """Why a cached teacher has nothing to say of the held-out rows; nothing where it has."""
    if not isinstance(held.teacher, Cached):
        return ""
    try:
        for part in held.chunks:
            held.teacher.signal(held.source.batch(part), held.wanted(terms))
    except CacheMismatch as reason:
        return str(reason)
    return ""


def _best(recipe: Recipe, asked: Watch, stage: Stage, *, without: str) -> Best:
    """The figure that chooses, and where it is found."""
    if asked.best in _ALWAYS:
        learned = any(term.name != CROSS_ENTROPY for term in stage.terms)
        if asked.best == "loss" and learned and without:
            raise RecipeError(f"watch.best: 'loss' needs what the teacher says. {without}")
        return Best(asked.best)
    for measure in _measures(asked):
        way = _module(measure).get("BETTER", {}).get(asked.best)
        if way is None:
            continue
        if measure.needs_teacher and without:
            raise RecipeError(f"watch.best: '{asked.best}' needs what the teacher says. {without}")
        return Best(asked.best, measure.name, way)
    raise RecipeError(f"watch.best: no look of {recipe.name} has a figure '{asked.best}'.")
