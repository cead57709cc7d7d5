"""A run that was carried out, exported or measured again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from limbeck import (
    benchmarking,
    cards,
    fitting,
    judging,
    loading,
    prints,
    telemetry,
    timing,
    tracking,
)
from limbeck.assembly import Ground
from limbeck.errors import LimbeckError, RecipeError
from limbeck.folder import Folder, owned
from limbeck.progress import say
from limbeck.recipe import Benchmarks, Speed
from limbeck.report import render
from limbeck.run import begun, export_all, plain_arms
from limbeck.standing import finished
from limbeck.training.signals import Stop


def _opened(path: Path) -> tuple[Ground, Folder]:
    folder = Folder(path)
    if not folder.recipe.is_file():
        raise LimbeckError(f"{path} is no run: it has no recipe.yaml.")
    recipe = fitting.check(loading.load(folder.recipe))
    tracking.check(recipe)
    base = begun(recipe)[0]
    prints.check_models(base, folder)
    return base, folder


def export_again(path: Path) -> None:
    """Writes the exports of a trained run that has none; an export that is there is verified."""
    base, folder = _opened(path)
    with owned(path):
        for arm in plain_arms(base, folder):
            if finished(arm) is None:
                raise LimbeckError(
                    f"{arm.folder.path} is not trained to its end; run 'limbeck train'."
                )
        export_all(base, folder, Stop().install())
        say(f"{folder.export} is complete.")


@contextlib.contextmanager
def _at_work(path: Path, base: Ground) -> Iterator[None]:
    """Owns a run's folder, and samples what the machine does for it."""
    with owned(path), telemetry.sampled([path], base.recipe.telemetry.every_seconds, base.device):
        yield


def _exported(base: Ground, folder: Folder) -> None:
    """Raises where a model of the run is away: figures without it would take the place of those with it."""
    for arm in plain_arms(base, folder):
        if not arm.folder.export.is_dir():
            raise LimbeckError(
                f"{arm.folder.export} is not there, so the {arm.title} cannot be measured. "
                f"'limbeck export {folder.path}' writes it anew; 'limbeck train' trains what is not trained yet."
            )


def evaluate_again(path: Path) -> None:
    """Measures the exported models of a run again and prints the table."""
    base, folder = _opened(path)
    if base.recipe.evaluate is None:
        raise RecipeError(
            f"{folder.recipe}: 'evaluate' is not given, so there is no held-out text."
        )
    benchmarking.check(base.recipe)
    stop = Stop().install()
    with _at_work(path, base), contextlib.closing(tracking.Told()) as told:
        _exported(base, folder)
        told.arm(base.recipe, folder).figures(judging.evaluate(base, folder, stop))
        job = benchmarking.job_of(base, folder)
        if job is not None:
            benchmarking.of_run(base, folder, job, stop)
        if base.recipe.evaluate.speed:
            timing.of_run(base, folder, base.recipe.evaluate.speed, f"limbeck evaluate {path}")
        cards.renew(plain_arms(base, folder), folder)
        judging.tell(folder, render.write(folder.path))


def put_benchmarks(path: Path, asked: Benchmarks, command: str) -> None:
    """Puts other benchmarks than its recipe's to the models of a run, and prints what they answered."""
    benchmarking.check_asked(asked)
    base, folder = _opened(path)
    job = benchmarking.Job(asked, benchmarking.answers(folder), command, base.dtype)
    with _at_work(path, base):
        benchmarking.of_run(base, folder, job, Stop().install())
        if folder.export.is_dir():
            cards.renew([arm for arm in plain_arms(base, folder) if finished(arm)], folder)
        judging.tell(folder, render.write(folder.path))


def measure_speed(path: Path, asked: Speed, command: str) -> None:
    """Measures how fast the models of a run write, at other sizes than its recipe's, and prints it."""
    base, folder = _opened(path)
    with _at_work(path, base):
        timing.of_run(base, folder, asked, command)
        judging.tell(folder, render.write(folder.path))
