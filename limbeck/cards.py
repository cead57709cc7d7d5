"""What a model card tells of an arm, before and after it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck import assembly, licences, loading, recarding
from limbeck.assembly import Model
from limbeck.cache.format import ABOUT, read_about
from limbeck.folder import Folder
from limbeck.licences import Origin
from limbeck.models import load
from limbeck.recipe import Recipe
from limbeck.report import card, collect
from limbeck.standing import Arm, trained_steps


def text(arm: Arm, student: Any, tokens: int, run: Folder) -> str:
    """The card of an arm. student: the model, or its shapes. run: the folder of the whole run, which holds the figures."""
    recipe = arm.recipe
    teacher = assembly.teacher_model(recipe)
    terms = [f"{term.name}" for stage in recipe.stages for term in stage.terms]
    control = arm.title == "control"
    told = card.Made(
        name=f"{_name(run)}, control" if control else _name(run),
        model="control" if control else "student",
        method=f"{recipe.student.name} student, {' + '.join(dict.fromkeys(terms))}",
        tags=("limbeck", "control") if control else ("distillation", "limbeck", recipe.student.name),
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        tokens=tokens,
        teacher=_model("teacher", teacher) or _served(recipe),
        teacher_parameters=_size(teacher),
        fingerprint=load.fingerprint(teacher.name, teacher.revision) if teacher else None,
        began=_model("weights it began with", assembly.began(recipe)),
        texts=_texts(recipe),
        recipe=loading.dump(recipe),
        own=recipe.card,
        code="limbeck" if type(student).__module__.startswith("limbeck.") else None,
    )  # fmt: skip
    return card.written(told, collect.facts(run.path))


def renew(arms: Sequence[Arm], folder: Folder) -> None:
    """Writes the model cards anew, now with figures."""
    for arm in arms:
        model = load.build_on_meta(load.load_config(str(arm.folder.export)))
        tokens = sum(
            trained_steps(arm, index)
            * stage.rows_per_step
            * assembly.stage_source(arm.base, stage).length
            for index, stage in enumerate(arm.recipe.stages)
        )
        # No work where it is the same.
        recarding.recarded(arm.folder.export, text(arm, model, tokens, folder))


def _model(role: str, model: Model | None) -> Origin | None:
    return licences.of_model(role, model.name, model.revision) if model else None


def _served(recipe: Recipe) -> Origin | None:
    """The teacher behind a server, or of a cache that others recorded: by the name that it goes by."""
    options = recipe.teacher.options if recipe.teacher else {}
    server = options.get("server")
    if isinstance(server, dict) and isinstance(server.get("model"), str):
        return licences.of_model("teacher", server["model"])
    path = options.get("path")
    if not isinstance(path, str):
        return None
    told = (Path(path) / ABOUT).is_file()
    name = read_about(Path(path)).teacher_name if told else ""
    return licences.of_model("teacher", name or f"the teacher of {path}")


def _name(run: Folder) -> str:
    """A run's name; of one of several students with that of the run that they learned in."""
    place = run.path.resolve()
    several = place.parent.name == "students"
    return f"{place.parent.parent.name}, {place.name}" if several else place.name


def _size(model: Model | None) -> int | None:
    if model is None:
        return None
    shapes = load.build_on_meta(load.load_config(model.name, revision=model.revision))
    return int(sum(parameter.numel() for parameter in shapes.parameters()))


def _texts(recipe: Recipe) -> tuple[Origin, ...]:
    """The texts of all stages, each once."""
    found: dict[str, Origin] = {}
    for stage in recipe.stages:
        one = licences.of_text("text", stage.source.options)
        if one is not None:
            found.setdefault(one.name, one)
    return tuple(found.values())
