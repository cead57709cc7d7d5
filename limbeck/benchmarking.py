"""Puts benchmarks to the models of a run, or to one model: one at a time, and none that has answered already."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck import assembly, files, judging, prints
from limbeck.assembly import Ground
from limbeck.errors import Interrupted, RecipeError
from limbeck.evaluation import _answers, _code, _harness, _tasks
from limbeck.folder import Folder, locked
from limbeck.models import load, place
from limbeck.progress import say
from limbeck.recipe import Benchmarks, Recipe
from limbeck.training.signals import Stop

# What stands before a key's name in errors.
WHERE, DOOR = "evaluate.benchmarks.", "limbeck evaluate: --"
CONFIGS = "tasks"


@dataclass(frozen=True)
class Contender:
    """A model that is asked. mark: what it is made of, so that another one of its name is asked again."""

    title: str
    mark: str
    tokenizer: PreTrainedTokenizerBase
    load: Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Job:
    """Questions, where the answers are kept, and the command that repeats it. where: how errors name the questions."""

    asked: Benchmarks
    place: Path
    command: str
    dtype: torch.dtype
    where: str = WHERE


@dataclass(frozen=True)
class Named:
    """A model without a run. to: the folder of its answers, or None for evaluations/NAME."""

    name: str
    device: str
    dtype: str
    to: Path | None


def check(recipe: Recipe) -> None:
    """Raises where a recipe's benchmarks cannot be put: a name, a file or lm-eval is missing. Loads nothing."""
    if recipe.evaluate is not None and recipe.evaluate.benchmarks is not None:
        check_asked(recipe.evaluate.benchmarks, WHERE)


def check_asked(asked: Benchmarks, where: str = DOOR) -> None:
    """The same for benchmarks of the command line, or of that place."""
    found = _tasks.check(asked, where)
    known = [name for name in found if name not in _code.TASKS]
    if asked.data is None and known:
        _harness.index(known)


def of_run(base: Ground, folder: Folder, job: Job, stop: Callable[[], bool]) -> None:
    """Puts a run's benchmarks to its teacher, its student as it begins, its student and its control."""
    models = contenders(base, folder, job.asked)
    if not models:
        raise RecipeError(
            f"{job.where}models: {folder.path} has none of {', '.join(job.asked.models)}. Name one that it has."
        )
    put(job, models, stop)


def of_model(model: Named, asked: Benchmarks, command: str) -> None:
    """Puts benchmarks to one model, and prints what it answered."""
    check_asked(asked)
    device = place.device_of(model.device)
    dtype = place.dtype_of(model.dtype, device)
    mark, tokenizer = load.fingerprint(model.name), load.load_tokenizer(model.name)

    def loaded() -> PreTrainedModel:
        return load.load_model(model.name, dtype=dtype).to(device)

    to = model.to or Path("evaluations") / Path(model.name).expanduser().resolve().name
    job = Job(asked, to, command, dtype, DOOR)
    with locked(to, to / ".lock", "Wait for it, stop it, or give another folder with --to."):
        put(job, [Contender("model", mark, tokenizer, loaded)], Stop().install())
    judging.tell_benchmarks(to)
    say(f"All of it is in {to}.")


def job_of(base: Ground, folder: Folder) -> Job | None:
    """The benchmarks that a run's recipe asks for."""
    asked = base.recipe.evaluate.benchmarks if base.recipe.evaluate else None
    if asked is None:
        return None
    return Job(asked, answers(folder), f"limbeck evaluate {folder.path}", base.dtype)


def answers(folder: Folder) -> Path:
    """Where a run keeps what its models answered."""
    return folder.evaluation("benchmarks").with_suffix("")


def contenders(base: Ground, folder: Folder, asked: Benchmarks) -> list[Contender]:
    """Those of the models that are asked for which the run has."""

    def exported(path: Path) -> Callable[[], PreTrainedModel]:
        def loaded() -> PreTrainedModel:
            files.verify(path)
            return load.load_model(str(path), dtype=base.dtype).to(base.device)

        return loaded

    def teacher() -> PreTrainedModel:
        found = assembly.load_teacher(base)
        assert found is not None  # only asked where a model is named
        return found

    found: dict[str, tuple[str, Callable[[], PreTrainedModel]]] = {}
    model = assembly.teacher_model(base.recipe)
    if model is not None:
        found["teacher"] = (load.fingerprint(model.name, model.revision), teacher)
    begun = prints.made_of(base.recipe) | {
        "seed": base.recipe.seed,
        "text": assembly.stage_source(base, base.recipe.stages[0]).identity,
    }
    found["before"] = (files.digest(files.canonical(begun)), lambda: _before(base))
    for title, path in (("student", folder.export), ("control", folder.control.export)):
        if path.is_dir():
            found[title] = (load.fingerprint(str(path)), exported(path))
    return [
        Contender(title, mark, base.tokenizer, loaded)
        for title, (mark, loaded) in found.items()
        if title in asked.models
    ]


def _before(base: Ground) -> PreTrainedModel:
    """The student before its first step, as the plain model that it would leave as."""
    made = assembly.merged(base.recipe, assembly.student(base))
    return place.cast(made, base.dtype).to(base.device).eval()


def put(job: Job, models: Sequence[Contender], stop: Callable[[], bool]) -> None:
    """Asks each model what it was not asked yet, task by task; a finished one is a file that names it."""
    names = _tasks.check(job.asked, job.where)
    settings = {name: _settings(job, name) for name in names}
    lacking = {
        model.title: [name for name in names if not _answered(job, settings[name], name, model)]
        for model in models
    }
    if any(lacking.values()):
        loaded = _harness.load(names, job.asked, job.place / CONFIGS)
        for model in models:
            if lacking[model.title]:
                _ask(
                    job,
                    model,
                    {name: loaded[name] for name in lacking[model.title]},
                    settings,
                    stop,
                )
    else:
        say(f"benchmarks: all {len(names)} are answered already.")
    for group in job.asked.tasks:
        if group in _tasks.GROUPS:
            _average(job, group, settings)


def _settings(job: Job, name: str) -> dict[str, Any]:
    """What a figure depends on beside the model."""
    asked = job.asked
    return {
        "few_shot": asked.few_shot,
        "limit": asked.limit,
        "seed": asked.seed,
        "bootstrap": asked.bootstrap,
        "rows": _tasks.fingerprint(name, asked.data),
        "lm_eval": _harness.release(),
        "dtype": str(job.dtype).removeprefix("torch."),
    } | (_code.settings(asked) if name in _code.TASKS else {})


def _answered(job: Job, settings: dict[str, Any], name: str, model: Contender) -> bool:
    path = _answers.path_of(job.place, name, job.asked)
    return _answers.has(_answers.read(path, settings), model.title, model.mark)


def _ask(
    job: Job,
    model: Contender,
    tasks: dict[str, Any],
    settings: dict[str, dict[str, Any]],
    stop: Callable[[], bool],
) -> None:
    from limbeck.evaluation._lm import TreeLM

    lm = TreeLM(model.load(), model.tokenizer, seed=job.asked.seed or 0)
    for number, (name, task) in enumerate(tasks.items(), start=1):
        if stop():
            raise Interrupted("Stopped between benchmarks; the same command goes on with the next.")
        say(f"{model.title}: {name} ({number} of {len(tasks)})")
        outcome = _harness.judge(lm, name, task, job.asked)
        path = _answers.path_of(job.place, name, job.asked)
        about = {"measure": name, "command": job.command, "settings": settings[name]}
        kept = _answers.read(path, settings[name])
        whole = _answers.added(kept, about, model.title, model.mark, outcome)
        files.write_json(path, _answers.compared(whole, judging.recovered))
    del lm
    gc.collect()  # the next model would stand beside this one


def _average(job: Job, group: str, settings: dict[str, dict[str, Any]]) -> None:
    """Writes a group's average, of what is there of it."""
    whole = {
        name: _answers.read(_answers.path_of(job.place, name, job.asked), settings[name])
        for name in _tasks.GROUPS[group]
        if name in settings
    }
    left = [name for name in _tasks.GROUPS[group] if name not in settings]
    title = "-".join([group, *(["without", *left] if left else [])])
    about = {
        "measure": title.replace("-", " "),
        "command": job.command,
        "settings": {name: settings[name] for name in whole},
    }
    kept = _answers.averaged(group, whole, about, judging.recovered)
    files.write_json(_answers.path_of(job.place, title, job.asked), kept)
