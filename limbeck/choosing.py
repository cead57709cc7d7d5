"""Which attentions a hybrid keeps where a recipe leaves it to the probe: asked once of a teacher, and written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from typing_extensions import TypedDict

from limbeck import assembly, checked, files, linking, loading
from limbeck.assembly import Ground
from limbeck.models import load, probe
from limbeck.progress import say
from limbeck.recipe import Part, Recipe, Stage
from limbeck.students.hybrid import Probed
from limbeck.training import parallel

PROBES = Path("prepared/probes")
"""Where answers are kept, for every run with the same teacher."""


class _Found(TypedDict):
    """What a probe found: blocks, the most needed first."""

    ranked: list[checked.Whole]


def check(recipe: Recipe) -> None:
    """Refuses, before minutes of probing, a hybrid that cannot be made, and what its stages could not do with any choice."""
    for one in recipe.each:
        if left_to_the_probe(one.student):
            assembly.student_on_meta(one)  # with as many attentions, which stand elsewhere
            if not any(_names_a_block(stage) for stage in one.stages):
                linking.check(one)


def _names_a_block(stage: Stage) -> bool:
    """Whether a tap or a pattern tells a block by its number, which has a mixer or has none."""
    links = (link for term in stage.terms if term.linked for link in term.linked.at)
    told = (*(side for link in links for side in (link.student, link.teacher)), *stage.train)
    return any(character.isdigit() for name in (*told, *stage.freeze) for character in name)


def chosen(base: Ground, world: parallel.World) -> Ground:
    """The same ground, with the numbers of blocks in the place of {auto: n}. The first rank probes, and tells the others."""

    def numbers(asked: Probed) -> list[int]:
        found: list[int] = []
        if world.first:
            found = sorted(_ranked(base, asked)[: asked.auto])
            say(f"student.hybrid keeps the attention of blocks {', '.join(map(str, found))}.")
        told: list[int] = json.loads(parallel.told(json.dumps(found), world))
        return told

    return replace(base, recipe=_filled(base.recipe, numbers))


def known(recipe: Recipe) -> Recipe:
    """The same recipe with the blocks that an earlier probe found, where it is written down; nothing is loaded."""
    model = assembly.teacher_model(recipe)
    if model is None or not Path(model.name).expanduser().is_dir():
        return recipe

    def numbers(asked: Probed) -> list[int] | None:
        path = _path(model, asked)
        return sorted(_read(path)[: asked.auto]) if path.is_file() else None

    return _filled(recipe, numbers)


def _filled(recipe: Recipe, numbers: Callable[[Probed], list[int] | None]) -> Recipe:
    """Every student with what it leaves to the probe filled in; as it is where `numbers` knows nothing."""

    def filled(part: Part) -> Part:
        asked = left_to_the_probe(part)
        found = numbers(asked) if asked else None
        if found is None:
            return part
        return Part(name=part.name, options=part.options | {"keep_attention": found})

    several = tuple(filled(part) for part in recipe.students)
    first = several[0] if several else filled(recipe.student)
    return recipe.model_copy(update={"student": first, "students": several})


def left_to_the_probe(part: Part) -> Probed | None:
    """What a student leaves to the probe, if it does."""
    if part.name != "hybrid":
        return None
    found = loading.checked(part, "students", "student")[1].get("keep_attention")
    return found if isinstance(found, Probed) else None


def _path(model: assembly.Model, asked: Probed) -> Path:
    mark = load.fingerprint(model.name, model.revision)[:16]
    return PROBES / f"{mark}-{asked.by}-{asked.prompts}x{asked.pairs}-{asked.seed}.json"


def _read(path: Path) -> list[int]:
    return checked.read(path, _Found, "Remove the file: the probe runs again.")["ranked"]


def _ranked(base: Ground, asked: Probed) -> list[int]:
    """Blocks, the most needed first."""
    model = assembly.teacher_model(base.recipe)
    assert model is not None  # a hybrid needs one
    path = _path(model, asked)
    if path.is_file():
        return _read(path)
    teacher = assembly.load_teacher(base)
    assert teacher is not None
    heads = asked.by == "heads"
    told = {"prompts": asked.prompts, "pairs": asked.pairs, "seed": asked.seed}
    lost = probe.probe(teacher, base.tokenizer, heads=heads, **told)
    found = lost.ranked_by_heads() if heads else lost.ranked()
    PROBES.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"model": model.name, "asked": asked.model_dump(), "ranked": found})
    return found
