"""Models without a weight: configs, students that can be made, taps and patterns that are there, and files that hold weights."""

from __future__ import annotations

import fnmatch
from functools import partial
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from limbeck import files, linking
from limbeck.assembly import Model
from limbeck.doctor.case import Case, Learner
from limbeck.doctor.findings import Finding, Findings, attempted, fault, note, ok, warning
from limbeck.estimating import count
from limbeck.models import load
from limbeck.training.trained import trainable

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


def shapes(case: Case) -> Findings:
    """The config of every model, and the student made of it."""
    if case.teacher is not None:
        yield from attempted("teacher", partial(_teacher, case))
    for one in case.learners:
        yield from attempted(one.where, partial(_student, one))


def _teacher(case: Case) -> list[Finding]:
    config = case.teacher_config()
    assert config is not None
    assert case.teacher is not None
    numbers = count(load.build_on_meta(config))
    return [ok(f"{case.teacher.name}: {numbers:,} parameters, {config.model_type}.", "teacher")]


def _student(one: Learner) -> list[Finding]:
    return [ok(f"{one.recipe.student.name}: {count(one.shape()):,} parameters.", one.where)]


def stages(case: Case) -> Findings:
    """What each stage compares and trains, looked for in the models."""
    for one in case.learners:
        for index, stage in enumerate(one.recipe.stages):
            where = f"{one.where}, stage {stage.name}"
            yield from attempted(where, partial(_compared, case, one, index, where))
            yield from attempted(where, partial(_trained, case, one, index, where))


def _compared(case: Case, one: Learner, index: int, where: str) -> list[Finding]:
    stage = one.recipe.stages[index]
    if not any(term.linked for term in stage.terms):
        return []
    case.shape(one, stage)
    linking.functions(one.recipe, stage)
    return [ok("every tap that it names is in both models.", where)]


def _trained(case: Case, one: Learner, index: int, where: str) -> list[Finding]:
    stage = one.recipe.stages[index]
    shape = case.shape(one, stage)
    names = trainable(shape, stage)
    every = [name for name, _ in shape.named_parameters(remove_duplicate=False)]
    idle = [p for p in stage.train if not any(fnmatch.fnmatchcase(n, p) for n in every)]
    if idle:
        return [
            warning(
                f"train '{idle[0]}' matches no parameter; the other patterns train {len(names):,}",
                where,
                wanted=f"a pattern such as {every[0]}.",
                cure="Correct it, or take it out.",
            )
        ]
    return [ok(f"trains {count(shape, names):,} of {count(shape):,} parameters.", where)]


def weights(case: Case) -> Findings:
    """Whether the files of weights are here and whole, by their headers and sizes."""
    for role, model in case.models:
        yield from attempted(role, partial(_weights, role, model))


def _weights(role: str, model: Model) -> list[Finding]:
    folder = Path(model.name).expanduser()
    if not folder.is_dir():
        return _hub(role, model) if load.known_config_file(model.name) or "/" in model.name else []
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    index = folder / _INDEX
    told = files.read_json(index) if index.is_file() and _WHOLE not in shards else {}
    mapped = told.get("weight_map", {}) if isinstance(told, dict) else None
    if not isinstance(mapped, dict) or not all(isinstance(name, str) for name in mapped.values()):
        cure = "Bring the index again, with the shards."
        wanted_map = "weight_map, with the file of each tensor."
        return [fault(f"{index}: it maps no tensors to files", role, wanted=wanted_map, cure=cure)]
    wanted = set(mapped.values())
    lacking = sorted(wanted - set(shards))
    if not shards or lacking:
        said = (
            f"{len(lacking)} of {len(wanted)} shards are not there, such as {lacking[0]}"
            if lacking
            else "no weights"
        )
        cure = "Bring them; other formats are converted with save_pretrained."
        return [fault(f"{folder}: {said}", role, wanted="safetensors.", cure=cure)]
    cut = [why for name in shards if (why := _cut(folder / name))]
    if cut:
        cure = "It was cut short or damaged on its way: bring it again."
        return [fault(why, role, wanted="whole safetensors files.", cure=cure) for why in cut]
    size = sum((folder / name).stat().st_size for name in shards)
    files_of = "1 file" if len(shards) == 1 else f"{len(shards)} files"
    return [ok(f"{files_of} of weights, {size:,} bytes.", role)]


def _cut(path: Path) -> str | None:
    """Why this file cannot be read as it was written, or None: its header is read, and no tensor."""
    try:
        with safe_open(path, framework="numpy"):
            return None
    except SafetensorError as reason:
        return f"{path}: {path.stat().st_size:,} bytes, {reason}"


def _hub(role: str, model: Model) -> list[Finding]:
    """A model of the hub: whether it was downloaded before."""
    if any(
        isinstance(try_to_load_from_cache(model.name, name, revision=model.revision), str)
        for name in (_WHOLE, _INDEX)
    ):
        return [ok(f"{model.name} was downloaded before.", role)]
    if constants.HF_HUB_OFFLINE:
        said = f"{model.name} was never downloaded, and HF_HUB_OFFLINE keeps the hub away"
        return [
            fault(said, role, cure="Name a folder, or download it where the hub can be reached.")
        ]
    return [note(f"{model.name} is not here: a run would download it first.", role)]
