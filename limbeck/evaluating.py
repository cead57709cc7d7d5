"""The door `limbeck evaluate`: a run measured again, or benchmarks put to a run or to any model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from limbeck.errors import LimbeckError, RecipeError

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
    device: Annotated[str | None, typer.Option(help="Of a model: auto, cpu, cuda:1.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of a model: float32 (the default), bfloat16 or auto.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Of a model: the folder to write; evaluations/NAME.")
    ] = None,
) -> None:
    """Measures the models of a run again, or puts lm-eval's benchmarks to them, or to one model."""
    options = {
        "without": without, "data": data, "models": models, "few_shot": few_shot, "limit": limit,
        "seed": seed, "bootstrap": bootstrap,
    }  # fmt: skip
    given = {key: value for key, value in options.items() if value is not None}
    of_model = {"--device": device, "--dtype": dtype, "--to": to and str(to)}
    _carried_out(what, tasks, given, {key: value for key, value in of_model.items() if value})


def _carried_out(what: str, tasks: str | None, given: dict[str, Any], own: dict[str, str]) -> None:
    """given: options of the benchmarks. own: those of a model without a run."""
    from limbeck import again, auditing, benchmarking

    is_run = (Path(what) / "recipe.yaml").is_file()
    if tasks is None:
        _refuse_alone(what, is_run, [*given, *own])
        with auditing.kept("evaluate", Path(what)):
            again.evaluate_again(Path(what))
        return
    # Said again as it was given, for the files that come of it.
    words = ["limbeck", "evaluate", what, "--tasks", tasks]
    for key, value in given.items():
        words += [f"--{key.replace('_', '-')}", str(value)]
    for key, value in own.items():
        words += [key, value]
    asked = _asked({"tasks": tasks, **given})
    if is_run:
        for key in own:
            raise RecipeError(f"evaluate: {key} is not of a run; {_OF_MODELS[key]} says it.")
        with auditing.kept("evaluate", Path(what)):
            again.put_benchmarks(Path(what), asked, shlex.join(words))
        return
    if "models" in given:
        raise RecipeError(f"evaluate: --models chooses among those of a run; {what} is none.")
    to = Path(own["--to"]) if "--to" in own else None
    model = benchmarking.Named(what, own.get("--device", "auto"), own.get("--dtype", "float32"), to)
    benchmarking.of_model(model, asked, shlex.join(words))


def _refuse_alone(what: str, is_run: bool, given: list[str]) -> None:
    if given:
        name = given[0].removeprefix("--").replace("_", "-")
        raise RecipeError(f"evaluate: --{name} belongs to --tasks, which is not given.")
    if not is_run:
        raise LimbeckError(
            f"{what} is no run: it has no recipe.yaml. To put benchmarks to a model, name them: --tasks lrc9."
        )


def _asked(options: dict[str, Any]) -> Any:
    """The options as the recipe's key; words that stand in a list are parted by commas."""
    from limbeck import loading
    from limbeck.recipe import Benchmarks

    for key in ("tasks", "without", "models"):
        if key in options:
            options[key] = [name.strip() for name in options[key].split(",") if name.strip()]
    try:
        return Benchmarks.model_validate(options)
    except ValidationError as reason:
        raise loading.told("limbeck evaluate", reason) from reason
