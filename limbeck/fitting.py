"""Whether the parts of a recipe go together: every clash is told before a model is loaded."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, get_args

from limbeck import loading, names, watching
from limbeck.errors import RecipeError
from limbeck.evaluation import _tasks
from limbeck.recipe import Ramp, Recipe, Stage, Term
from limbeck.training.links import DEEP, Kind, kind_of

# Units of which a relation has something to say: angles need three.
_FEWEST = 3
_SERVED = ("remote", "cached")


def check(recipe: Recipe) -> Recipe:
    """The same recipe, once every part and option is known to exist and to be of the right kind."""
    for clash in clashes(recipe):
        raise clash
    return recipe


def clashes(recipe: Recipe) -> Iterator[RecipeError]:
    """Everything that does not go together, in order. Of a part that is wrong by itself nothing more is asked."""
    wrong = set[str]()
    for where, family, part in loading.parts(recipe):
        reason = _refused(partial(loading.checked, part, family, where))
        if reason is not None:
            wrong.add(where)
            yield reason
    for touched, ask in _questions(recipe):
        reason = _refused(ask) if wrong.isdisjoint(touched) else None
        if reason is not None:
            yield reason


def _refused(ask: Callable[[], object]) -> RecipeError | None:
    try:
        ask()
    except RecipeError as reason:
        return reason
    return None


def _questions(recipe: Recipe) -> Iterator[tuple[set[str], Callable[[], object]]]:
    """What is asked of a recipe, and of which of its parts each question is."""
    students = {"student", *(f"students[{number}]" for number in range(len(recipe.students)))}
    watched = recipe.watch.measures if recipe.watch else ()
    looks = {f"watch.measures[{number}]" for number in range(len(watched))}
    yield students, partial(_check_merged, recipe)
    yield {"teacher"}, partial(_check_server, recipe)
    yield {"teacher"} | looks, partial(watching.check, recipe)
    for index, stage in enumerate(recipe.stages):
        yield from _of_stage(recipe, stage, f"stages[{index}]")
    if recipe.evaluate is not None and recipe.evaluate.benchmarks is not None:
        asked = recipe.evaluate.benchmarks
        yield set(), partial(_tasks.wanted, asked, "evaluate.benchmarks.")
    yield set(), partial(_check_measures, recipe)


def _of_stage(
    recipe: Recipe, stage: Stage, where: str
) -> Iterator[tuple[set[str], Callable[[], object]]]:
    each = [f"{where}.objective[{number}]" for number in range(len(stage.objective))]
    yield set(), partial(_check_taught, recipe, stage, where)
    yield set(), partial(_check_betas, stage, f"{where}.optimizer")
    if stage.forward == "layer_forced":
        yield set(each), partial(_check_forced, recipe, stage, where)
    yield set(each), partial(_check_different, stage.terms, f"{where}.objective")
    for place, term in zip(each, stage.objective, strict=True):
        yield {place}, partial(_check_temperature, term, place)
        yield {place}, partial(_check_weight, term, place)
        yield {place}, partial(_check_enough, term, stage.micro_rows, place)
        yield {place, "teacher"}, partial(_check_kind, recipe, term, place)


def _check_taught(recipe: Recipe, stage: Stage, where: str) -> None:
    """Refuses terms that compare with a teacher where there is none."""
    wanted = sorted({term.name for term in stage.terms} - {"cross_entropy"})
    if wanted and recipe.teacher is None:
        raise RecipeError(f"{where}.objective: {', '.join(wanted)} needs a teacher.")


def _check_betas(stage: Stage, where: str) -> None:
    """Refuses averages that AdamW would refuse once all models are loaded."""
    for number, beta in enumerate(stage.optimizer.betas):
        if not 0 <= beta < 1:
            raise RecipeError(
                f"{where}.betas[{number}]: beta {beta} found; wanted 0 or more, and below 1. Set it to such as 0.9 and 0.95."
            )


def _check_kind(recipe: Recipe, term: Term, where: str) -> None:
    """Refuses taps that cannot be compared so, and what the kind of cache cannot serve."""
    if not _between_taps(recipe, term, where):
        _check_served(recipe, term, where)


def _check_measures(recipe: Recipe) -> None:
    """Refuses to compare at the end with a teacher that nobody can load."""
    model = recipe.teacher and recipe.teacher.options.get("model")
    for number, measure in enumerate(recipe.evaluate.measures if recipe.evaluate else ()):
        if measure.name == "agreement" and not model:
            raise RecipeError(
                f"evaluate.measures[{number}]: 'agreement' needs a teacher whose 'model' is named. "
                "Set evaluate.measures to [bits_per_byte]; a served teacher has no weights to compare with."
            )


def _check_server(recipe: Recipe) -> None:
    """Refuses of a served teacher what no server can give: other kinds of cache, features, a key over plain http."""
    part = recipe.teacher
    if part is None or part.name not in _SERVED or part.options.get("server") is None:
        return
    where = f"teacher.{part.name}"
    given = loading.checked(part, "teachers", "teacher")[1]
    given["server"].check(f"{where}.server")
    if part.name == "cached":
        if given.get("model") is not None:
            raise RecipeError(f"{where}: 'model' and 'server' are both given; wanted one of them.")
        if given.get("kind", "sample") != "topk+rest":
            raise RecipeError(
                f"{where}.kind: '{given.get('kind', 'sample')}' found; a server tells the likeliest ids alone, so wanted "
                "'topk+rest', with a k that it allows (20 in vLLM, unless --max-logprobs says otherwise)."
            )
    for index, stage in enumerate(recipe.stages):
        for number, term in enumerate(stage.objective):
            if term.linked is not None:
                raise RecipeError(
                    f"stages[{index}].objective[{number}]: '{term.name}' compares what is inside models, and a server shows "
                    "nothing of it. Take it out, or a live teacher."
                )


def _check_forced(recipe: Recipe, stage: Stage, where: str) -> None:
    """Refuses to feed blocks what a teacher's are fed, where no teacher runs, or where a term is on the whole model."""
    for term in stage.terms:
        if _kind(term) is None:
            cause = "alpha's cross_entropy" if stage.alpha is not None else f"'{term.title}'"
            raise RecipeError(
                f"{where}: {cause} compares what models say at the end; under forward 'layer_forced' blocks learn one by "
                "one. Take a term between taps, such as feature_norm, or forward: free."
            )
    if recipe.teacher is None or recipe.teacher.name != "live":
        name = recipe.teacher.name if recipe.teacher else "none"
        raise RecipeError(
            f"{where}.forward: 'layer_forced' needs what enters each block of the teacher; the teacher is '{name}'. Set it to 'live'."
        )


def _check_merged(recipe: Recipe) -> None:
    """Refuses to merge what has nothing to merge, and to train its parts again afterwards."""
    merged = [stage.merged for stage in recipe.stages]
    for index, earlier in enumerate(merged[:-1]):
        if earlier and not merged[index + 1]:
            raise RecipeError(
                f"stages[{index + 1}].merged: false found behind a merged stage, whose student has no other parts any "
                "more. Set it to true, or put the stage before."
            )
    if not any(merged):
        return
    for one in recipe.each:
        function = names.find("students", one.student.name)
        if "finish" not in vars(sys.modules[function.__module__]):
            raise RecipeError(
                f"stages[{merged.index(True)}].merged: '{one.student.name}' has nothing to merge. Take it out."
            )


def _check_different(terms: Sequence[Term], where: str) -> None:
    """Refuses one objective under two names: the log would tell them apart, the loss would count it twice.

    Under labels of its own it may stand again: somebody wanted it.
    """
    seen: list[tuple[str, Callable[..., Any]]] = []
    for term in (each for each in terms if not each.label):
        function = names.find("objectives", term.name)
        for name, earlier in seen:
            if earlier is function:
                raise RecipeError(
                    f"{where}: '{name}' and '{term.name}' are one objective; give one weight instead."
                )
        seen.append((term.name, function))


def _check_temperature(term: Term, where: str) -> None:
    """Refuses a temperature that is not above 0 throughout: logits are divided by it."""
    given = loading.checked(term, "objectives", where)[1].get("temperature")
    for value in (given.start, given.end) if isinstance(given, Ramp) else (given,):
        if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
            raise RecipeError(f"{where}: temperature {value} found; wanted a number above 0.")


def _check_weight(term: Term, where: str) -> None:
    """Refuses a weight that is no number: the loss would be none."""
    given = term.weight
    for value in (given.start, given.end) if isinstance(given, Ramp) else (given,):
        if not math.isfinite(value):
            raise RecipeError(f"{where}: weight {value} found; wanted a finite number.")


def _check_enough(term: Term, micro_rows: int, where: str) -> None:
    """Refuses relations among too few rows: two make no angle, and the term would be 0 without a word."""
    pooled = term.linked is not None and term.linked.units == "rows"
    if pooled and micro_rows < _FEWEST:
        raise RecipeError(
            f"{where}: '{term.name}' is among the rows of a micro-batch, which has {micro_rows}; wanted {_FEWEST} or "
            "more. Raise the stage's micro_rows, or take units: tokens."
        )


def _kind(term: Term) -> Kind | None:
    """What an objective compares; None: what models say of the next token."""
    function = names.find("objectives", term.name)
    first = next(iter(inspect.signature(function, eval_str=True).parameters.values()))
    return kind_of(first.annotation)


def _between_taps(recipe: Recipe, term: Term, where: str) -> bool:
    """Whether an objective compares taps; refuses what it cannot be told, and `at` where it compares none."""
    kind, linked = _kind(term), term.linked
    if kind is None:
        if linked is not None:
            raise RecipeError(
                f"{where}: '{term.name}' compares what models say of the next token; it has no 'at'. Take it out."
            )
        return False
    if linked is None:
        raise RecipeError(
            f"{where}: '{term.name}' compares taps and needs 'at': a module on both sides such as layers.3, a pattern "
            "such as layers.*.mlp, 'all' blocks by depth, or {student: ..., teacher: ...}."
        )
    free = {
        "features": {"projector", "token_share", "teacher_projected"},
        "units": {"projector", "token_share", "units", "max_units"},
    }
    for name in sorted(linked.model_fields_set - {"at"} - free.get(kind, set())):
        if getattr(linked, name) != type(linked).model_fields[name].default:
            raise RecipeError(f"{where}: '{term.name}' has no '{name}'. Take it out.")
    if linked.teacher_projected and linked.projector is not None:
        raise RecipeError(
            f"{where}: 'teacher_projected' and 'projector' are both given; the student's own projection is the map. Take "
            "one of them out."
        )
    if recipe.compute.compile and all(stage.looks_inside for stage in recipe.stages):
        raise RecipeError(
            f"{where}: '{term.name}' looks inside blocks, which compute.compile seals. Set compute.compile to false."
        )
    if kind in DEEP and recipe.teacher is not None and recipe.teacher.name == "cached":
        raise RecipeError(
            f"{where}: '{term.name}' needs queries and keys, which no cache keeps: they are larger than the model's "
            "stream at every layer. Set the teacher to 'live'."
        )
    return True


def _check_served(recipe: Recipe, term: Term, where: str) -> None:
    """Refuses an objective that the kind of cache cannot serve: it says so in the type of its `teacher`."""
    kept = _kept_by(recipe)
    if kept is None or recipe.teacher is None:
        return
    function = names.find("objectives", term.name)
    asked = inspect.signature(function, eval_str=True).parameters.get("teacher")
    known = get_args(asked.annotation) if asked else ()
    kind = recipe.teacher.options.get("kind", "sample")
    cure = "Set teacher.cached.kind to 'topk+rest', which serves every divergence and temperature."
    if asked is None or asked.annotation is inspect.Parameter.empty or type(None) in known:
        return
    if kept not in {getattr(one, "__name__", "") for one in known}:
        raise RecipeError(
            f"{where}: '{term.name}' cannot learn from teacher.cached.kind '{kind}', which keeps too little "
            f"of the teacher for it. {cure}"
        )
    if term.options.get("temperature", 1) != 1:
        raise RecipeError(
            f"{where}: temperature {term.options['temperature']} found; teacher.cached.kind '{kind}' is recorded "
            f"at temperature 1 and serves no other. {cure}"
        )


def _kept_by(recipe: Recipe) -> str | None:
    """The type of what a cached teacher gives where that does not serve every objective; else None."""
    if recipe.teacher is None or recipe.teacher.name != "cached":
        return None
    kinds = {"sample": "Sampled", "rs": "Sampled", "kl-vector": "HeadMean"}
    return kinds.get(recipe.teacher.options.get("kind", "sample"))
