"""Of what a run is made: fingerprints of its models, tokenizer and text, compared before anything is made of them again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from limbeck import assembly, checked, files, licences, loading, provenance
from limbeck.assembly import Ground
from limbeck.errors import LimbeckError
from limbeck.folder import Folder
from limbeck.models import load
from limbeck.recipe import Recipe
from limbeck.strict import parse_yaml
from limbeck.training import checkpoint

MADE_OF = "made_of"
"""Where a checkpoint's state says it."""


class _Begun(TypedDict):
    """What a run began with, by provenance.json."""

    prints: dict[str, Any]


def of_models(recipe: Recipe) -> dict[str, Any]:
    """The fingerprints of the teacher and of the model that the student is made of, where there are any."""
    found = {
        "teacher": assembly.teacher_model(recipe),
        "student": assembly.model_of(recipe.student),
    }
    return {
        name: load.fingerprint(model.name, model.revision) if model else None
        for name, model in found.items()
    }


def write(base: Ground, folder: Folder) -> None:
    """Writes provenance.json, or compares all that it says with what is there now."""
    prints = of_models(base.recipe) | {
        "tokenizer": base.tokenizer_print,
        "text": [assembly.stage_source(base, stage).identity for stage in base.recipe.stages],
        "dtype": str(base.dtype),
    }
    if not _path(folder).is_file():
        spent = _spent(base.recipe)
        more = {"text_spent": spent} if spent else {}
        told = provenance.of_run(base.recipe, vocab=base.vocab, prints=prints, **more)
        files.write_json(_path(folder), told)
    _same(folder, prints, "Give this one another name (name=…), or bring back what was changed.")


def _spent(recipe: Recipe) -> list[dict[str, Any]]:
    """What the texts that teachers wrote had cost, as their folders tell."""
    texts = [licences.of_text(stage.name, stage.source.options) for stage in recipe.stages]
    told = {one.name: one for one in texts if one is not None and one.spent is not None}
    return [{"text": one.name, "teacher": one.writer, "spent": one.spent} for one in told.values()]


def check_models(base: Ground, folder: Folder) -> None:
    """Raises where models or tokenizer are not those of a run that has begun: its checkpoints may lack what is theirs."""
    if _path(folder).is_file():
        prints = of_models(base.recipe) | {"tokenizer": base.tokenizer_print}
        _same(folder, prints, "Bring back what was changed.")


def _path(folder: Folder) -> Path:
    return folder.path / "provenance.json"


def _same(folder: Folder, prints: dict[str, Any], mend: str) -> None:
    before = checked.read(_path(folder), _Begun, "Bring back the file as it was.")["prints"]
    for name, value in prints.items():
        if before.get(name) != value:
            raise LimbeckError(
                f"{folder.path} was begun with {name} {before.get(name)}, now it is {value}: another run. {mend}"
            )


def made_of(recipe: Recipe) -> dict[str, Any]:
    """How the student of a recipe is made, and of what."""
    return of_models(recipe) | {"part": recipe.student.model_dump(mode="json")}


def check_checkpoint(path: Path, recipe: Recipe, names: set[str]) -> None:
    """Raises where a checkpoint that `resume` names is of a student made otherwise, and lacks some of what it is made of.

    names: all parameters of the student. One that holds them all needs nothing of where it came from.
    """
    told, now = checkpoint.state(path).get(MADE_OF), made_of(recipe)
    if told is None or told == now or names <= checkpoint.names(path):
        return
    other = next(key for key in now if told.get(key) != now[key])
    raise LimbeckError(
        f"resume: {path} is of a student with another {other}: {told.get(other)}, now {now[other]}. It holds what was trained, and the "
        "rest is in that model. Correct 'resume', or the teacher and the student."
    )


def identity(text: str) -> str:
    """What makes two runs the same one: all but where its folder is and what does not touch its weights."""
    recipe = loading.build(parse_yaml(text, "recipe.yaml"), "recipe.yaml")
    free = ["resume", "log_every", "runs", "export", "evaluate", "checkpoints"]
    free += ["track", "telemetry", "card"]
    if recipe.watch is not None and recipe.watch.patience is None:
        free.append("watch")  # a stage that may end early is another one
    plain = {name: Recipe.model_fields[name].default for name in free}
    return loading.dump(recipe.model_copy(update=plain))
