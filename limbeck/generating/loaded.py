"""From YAML to a checked Generation: what of it does not go together is told before anybody is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck import loading
from limbeck.errors import RecipeError
from limbeck.generating.settings import Generation, Judge, Teacher
from limbeck.sampling.address import loopback
from limbeck.sampling.shapes import SHAPES


def load(path: Path, overrides: Sequence[str] = ()) -> Generation:
    """The generation of a file, with overrides."""
    tree = loading.read_yaml(path)
    for assignment in overrides:
        loading.override(tree, assignment)
    return build(tree, str(path))


def build(tree: dict[str, Any], where: str = "recipe") -> Generation:
    """A Generation of plain data."""
    try:
        found = Generation.model_validate(tree)
    except ValidationError as reason:
        raise loading.told(where, reason) from None
    _check_server(found.teacher, f"{where}: teacher")
    _check_money(found, where)
    if found.judge:
        _check_server(found.judge.teacher, f"{where}: judge.teacher")
        _check_money(found.judge, f"{where}: judge")
    return found


def dump(asked: Generation) -> str:
    """The complete recipe as YAML."""
    return yaml.safe_dump(asked.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _check_server(teacher: Teacher, where: str) -> None:
    remote = teacher.remote
    if remote is None:
        return
    place = f"{where}.{teacher.shape}"
    remote.check(place)
    for name in remote.body:
        if name in SHAPES[teacher.shape].set:
            raise RecipeError(
                f"{place}.body: '{name}' is set by other keys of the recipe (sampling, prompts, model)."
            )


def _check_money(asked: Generation | Judge, where: str) -> None:
    if asked.spend and not asked.prices:
        raise RecipeError(f"{where}: spend.cap needs prices. Wanted: prices, too.")
    remote = asked.teacher.remote
    if remote and remote.key and not loopback(remote.url) and not asked.spend:
        raise RecipeError(
            f"{where}: {remote.url} may cost money, and nothing limits it. Wanted: prices, and spend.cap."
        )
