"""The door `limbeck evaluate`: a run measured again, or benchmarks put to a run or to any model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from limbeck import measurement
from limbeck.errors import LimbeckError, RecipeError

Asked = TypeVar("Asked", bound=BaseModel)
_OF_MODELS = {"--device": "compute.device", "--dtype": "compute.dtype", "--to": "the run's folder"}


def evaluate(
    what: Annotated[
        str,
        typer.Argument(
            help="A run's folder; with --tasks also a model's, or its name on the hub.",
            metavar="RUN|MODEL",
        ),
    ],
    *,
    tasks: Annotated[
        str | None,
        typer.Option(help="Benchmarks alone, such as lrc9,wikitext; else what the recipe says."),
    ] = None,
    without: Annotated[str | None, typer.Option(help="Tasks to leave out of groups.")] = None,
    data: Annotated[
        str | None, typer.Option(help="The folder of their rows; else the Hub.")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="Of a run: teacher,before,student,control.")
    ] = None,
    few_shot: Annotated[int | None, typer.Option(help="Examples before each question.")] = None,
    limit: Annotated[int | None, typer.Option(help="The first questions of each task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses the examples.")] = None,
    bootstrap: Annotated[int | None, typer.Option(help="Resamples for errors; 100000.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run what models write for humaneval and mbpp.")
    ] = False,
    isolation: Annotated[
        str | None, typer.Option(help="How that is locked in: namespaces, or weaker, syscalls.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Answers of humaneval and mbpp for pass@k; else one, greedy.")
    ] = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="How fast they read and write, instead.")
    ] = False,
    lengths: Annotated[str | None, typer.Option(help="Of prompts, with --speed: 512,2048.")] = None,
    batches: Annotated[str | None, typer.Option(help="Prompts at a time: 1,8.")] = None,
    new_tokens: Annotated[int | None, typer.Option(help="Tokens written behind; 32.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of each model; 3.")] = None,
    device: Annotated[str | None, typer.Option(help="Of a model: auto, cpu, cuda:1.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of a model: float32 (the default), bfloat16 or auto.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Of a model: the folder to write; evaluations/NAME.")
    ] = None,
) -> None:
    """Measures the models of a run again, puts lm-eval's benchmarks to them or to one model, or times them."""
    options = {
        "without": without, "data": data, "models": models, "few_shot": few_shot, "limit": limit,
        "seed": seed, "bootstrap": bootstrap, "allow_code": allow_code or None, "isolation": isolation,
        "samples": samples,
    }  # fmt: skip
    of_model = {"--device": device, "--dtype": dtype, "--to": to and str(to)}
    sizes = {"lengths": lengths, "batches": batches, "new_tokens": new_tokens, "rounds": rounds}
    _chosen((what, tasks, speed), _said(options), _said(of_model), _said(sizes))


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _chosen(
    asked: tuple[str, str | None, bool],
    given: dict[str, Any],
    own: dict[str, str],
    times: dict[str, Any],
) -> None:
    """Times models, or puts benchmarks to them. asked: what, which tasks, whether it is timed."""
    what, tasks, speed = asked
    if speed:
        if tasks is not None or given:
            raise RecipeError("evaluate: --speed and --tasks are two questions; ask one at a time.")
        return _timed(what, times, own)
    for key in times:
        raise RecipeError(f"evaluate: --{key.replace('_', '-')} belongs to --speed, not given.")
    return _carried_out(what, tasks, given, own)


def _timed(what: str, given: dict[str, Any], own: dict[str, str]) -> None:
    """given: options of --speed. own: those of a model without a run."""
    from limbeck import again, auditing, timing

    words = _words(["limbeck", "evaluate", what, "--speed"], given, own)
    asked = _asked(given, measurement.Speed, ("lengths", "batches"))
    if _is_run(what, own):
        with auditing.kept("evaluate", Path(what)):
            again.measure_speed(Path(what), asked, words)
        return
    timing.of_model(_named(what, own), asked, words)


def _is_run(what: str, own: dict[str, str]) -> bool:
    """Whether it is a run, which has no options of a model."""
    if not (Path(what) / "recipe.yaml").is_file():
        return False
    for key in own:
        raise RecipeError(f"evaluate: {key} is not of a run; {_OF_MODELS[key]} says it.")
    return True


def _words(words: list[str], given: dict[str, Any], own: dict[str, str]) -> str:
    """The command, said again as it was given, for the files that come of it."""
    for key, value in given.items():
        words += [f"--{key.replace('_', '-')}", *([] if value is True else [str(value)])]
    for key, value in own.items():
        words += [key, value]
    return shlex.join(words)


def _named(what: str, own: dict[str, str]) -> Any:
    """A model without a run."""
    from limbeck import benchmarking

    to = Path(own["--to"]) if "--to" in own else None
    return benchmarking.Named(what, own.get("--device", "auto"), own.get("--dtype", "float32"), to)


def _carried_out(what: str, tasks: str | None, given: dict[str, Any], own: dict[str, str]) -> None:
    """given: options of the benchmarks. own: those of a model without a run."""
    from limbeck import again, auditing, benchmarking

    if tasks is None:
        is_run = (Path(what) / "recipe.yaml").is_file()
        _refuse_alone(what, is_run, [*given, *own])
        with auditing.kept("evaluate", Path(what)):
            again.evaluate_again(Path(what))
        return
    words = _words(["limbeck", "evaluate", what, "--tasks", tasks], given, own)
    asked = _asked(
        {"tasks": tasks, **given}, measurement.Benchmarks, ("tasks", "without", "models")
    )
    if _is_run(what, own):
        with auditing.kept("evaluate", Path(what)):
            again.put_benchmarks(Path(what), asked, words)
        return
    if "models" in given:
        raise RecipeError(f"evaluate: --models chooses among those of a run; {what} is none.")
    benchmarking.of_model(_named(what, own), asked, words)


def _refuse_alone(what: str, is_run: bool, given: list[str]) -> None:
    if given:
        name = given[0].removeprefix("--").replace("_", "-")
        raise RecipeError(f"evaluate: --{name} belongs to --tasks, which is not given.")
    if not is_run:
        raise LimbeckError(
            f"{what} is no run: it has no recipe.yaml. To put benchmarks to a model, name them: --tasks lrc9."
        )


def _asked(options: dict[str, Any], of: type[Asked], lists: tuple[str, ...]) -> Asked:
    """The options as the recipe's key; words that stand in a list are parted by commas."""
    from limbeck import loading

    for key in lists:
        if key in options:
            options[key] = [name.strip() for name in options[key].split(",") if name.strip()]
    try:
        return of.model_validate(options)
    except ValidationError as reason:
        raise loading.told("limbeck evaluate", reason) from reason
