"""The scripts that Slurm runs: a recording as an array of ranks, a training over nodes, each going on after a stop."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from limbeck.errors import STOPPED, LimbeckError, RecipeError
from limbeck.launching.settings import CONTROL, Settings
from limbeck.recipe import Recipe
from limbeck.training import loop, parallel

# What a job gets of the environment that it is submitted from, by name: where things are, and no key.
KEPT = ("HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER")


@dataclass(frozen=True)
class Work:
    """What the jobs carry out: a recipe, its overrides, and the folder that its relative paths are of."""

    recipe: Path
    overrides: tuple[str, ...]
    place: Path


def kinds(recipe: Recipe, *, record: bool, train: bool) -> tuple[str, ...]:
    """The jobs of a recipe, in order: those asked for, or all that it has work for."""
    teacher = recipe.teacher
    recorded = teacher is not None and teacher.name == "cached" and teacher.options.get("model")
    if record and not recorded:
        raise RecipeError(
            f"launch slurm: --record found teacher '{teacher.name if teacher else None}'; wanted 'cached' with a model "
            "to record. Leave out --record, or correct the recipe's teacher."
        )
    if record or train:
        return ("record",) * record + ("train",) * train
    return ("record", "train") if recorded else ("train",)


def check_split(recipe: Recipe, asked: Settings) -> None:
    """Raises where the rows of a step cannot be split over the ranks that are asked for: now, not in the queue."""
    world = parallel.World(0, asked.nodes * asked.processes_per_node, torch.device("cpu"))
    for stage in recipe.stages:
        loop.check_split(stage, world)


def scripts(work: Work, asked: Settings, kinds: tuple[str, ...]) -> dict[str, str]:
    """The script of each job, by its kind."""
    write = {"record": record_script, "train": train_script}
    # What the training waits for is the recording, where both are made: sbatch is told once its number is known.
    later = asked.model_copy(update={"after": None})
    return {kind: write[kind](work, later if n else asked) for n, kind in enumerate(kinds)}


def printed(made: dict[str, str], logs: str) -> str:
    """One script as it is; of two, the shell script that submits the one and then the other."""
    if len(made) == 1:
        return next(iter(made.values()))
    return both_script(made["record"], made["train"], logs)


def record_script(work: Work, asked: Settings) -> str:
    """An array with a task for each rank that records."""
    limit = f"%{asked.array_limit}" if asked.array_limit else ""
    gpus = asked.gpus and asked.gpus[: asked.gpus.rfind(":") + 1] + "1"
    options = [
        f"--job-name={asked.name}-record",
        f"--array=0-{asked.ranks - 1}{limit}",
        "--nodes=1",
        "--ntasks=1",
        *_options(asked, gpus=gpus, output="%A_%a"),
    ]
    return _script("record", options, work, asked)


def train_script(work: Work, asked: Settings) -> str:
    """A job over nodes, in which torchrun starts the ranks of each."""
    options = [
        f"--job-name={asked.name}",
        f"--nodes={asked.nodes}",
        "--ntasks-per-node=1",
        *_options(asked, gpus=asked.gpus, output="%j"),
    ]
    return _script("train", options, work, asked)


def _options(asked: Settings, *, gpus: str | None, output: str) -> list[str]:
    """What both kinds of job say to sbatch; every value is a number, or was checked against a pattern."""
    plain = {
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "time": asked.time,
        "mem": asked.memory,
        "gpus-per-node": gpus,
        "cpus-per-task": asked.cpus,
        "dependency": f"afterok:{asked.after}" if asked.after else None,
        # Else it would wait for ever once what it waits for has failed.
        "kill-on-invalid-dep": "yes" if asked.after else None,
    }
    return [
        *(f"--{name}={value}" for name, value in plain.items() if value is not None),
        # In a file name, Slurm reads %% as %.
        f'--output="{asked.logs.replace("%", "%%")}/{output}.out"',
        "--open-mode=append",
        "--requeue",
        f"--signal=B:TERM@{asked.warning_seconds}",
        # By name: Slurm takes the values when the job is submitted, the script holds none.
        f"--export={','.join(dict.fromkeys((*KEPT, *asked.export)))}",
    ]


def _script(kind: str, options: list[str], work: Work, asked: Settings) -> str:
    for value in (str(work.recipe), str(work.place), *work.overrides):
        if CONTROL.search(value):
            raise LimbeckError(
                f"launch slurm: found a line end or control sign in {value!r}; wanted none in paths and overrides. "
                "Rename the path, or write the value into the recipe."
            )
    values = {
        "kind": kind,
        "options": options,
        "asked": asked,
        "place": str(work.place),
        "words": [str(work.place / work.recipe), *work.overrides],
        "stopped": STOPPED,
    }
    return _filled("job.sh.jinja", values)


def both_script(record: str, train: str, logs: str) -> str:
    """A shell script that submits a recording, and a training to come after it."""
    end = "END_OF_JOB"
    while end in (record + train).splitlines():  # a line of set-up may say anything
        end += "_"
    values = {"record": record, "train": train, "logs": logs, "end": end}
    return _filled("both.sh.jinja", values)


def _filled(name: str, values: dict[str, Any]) -> str:
    """A template of this folder with its values."""
    # What is made is shell and no HTML: the template quotes each value for a shell where it stands.
    environment = Environment(  # noqa: S701
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quoted"] = shlex.quote
    text = resources.files("limbeck.launching").joinpath(name).read_text(encoding="utf-8")
    return environment.from_string(text).render(values)
