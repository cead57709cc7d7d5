"""From YAML and key.path=value overrides to a checked Recipe; every error names its path."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from limbeck import names
from limbeck.errors import RecipeError
from limbeck.recipe import Linked, Part, Ramp, Recipe, Term
from limbeck.strict import parse_yaml, text_of

LARGEST = 1_000_000


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a recipe file holds."""
    if not path.is_file():
        near = difflib.get_close_matches(str(path), map(str, path.parent.glob("*.yaml")), n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RecipeError(f"There is no recipe {path}.{hint}")
    if path.stat().st_size > LARGEST:
        raise RecipeError(
            f"{path}: {path.stat().st_size:,} bytes; a recipe has {LARGEST:,} at most."
        )
    return _mapping(parse_yaml(text_of(path), str(path)), str(path))


def _mapping(tree: Any, where: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise RecipeError(f"{where}: found {type(tree).__name__}; wanted a mapping of recipe keys.")
    return tree


def override(tree: dict[str, Any], assignment: str) -> None:
    """Sets one `key.path=value` in the tree; numbers in the path count list items from 0."""
    path, equals, raw = assignment.partition("=")
    if not equals or not path:
        raise RecipeError(f"'{assignment}': wanted key.path=value.")
    value = parse_yaml(raw, f"override '{path}'")
    node: Any = tree
    keys = path.split(".")
    for depth, key in enumerate(keys[:-1]):
        place = ".".join(keys[: depth + 1])
        index = _index(key, node, f"override '{path}': {place}")
        if isinstance(node, dict):
            node.setdefault(index, {})
        if isinstance(node[index], str) and node[index] == keys[depth + 1]:
            node[index] = {node[index]: {}}  # a part named without options gets room for one
        elif node[index] is None:
            node[index] = {}
        node = node[index]
    node[_index(keys[-1], node, f"override '{path}'")] = value


def _index(key: str, node: Any, place: str) -> Any:
    """The key as the node wants it: a word in a mapping, a number in a list."""
    if isinstance(node, dict):
        return key
    if not isinstance(node, list):
        raise RecipeError(f"{place}: the recipe has {node!r} there, which has no key '{key}'.")
    if not key.isdecimal() or int(key) >= len(node):
        raise RecipeError(f"{place}: found '{key}'; wanted a number below {len(node)}.")
    return int(key)


def _extended(tree: dict[str, Any]) -> dict[str, Any]:
    """Stages with `extends: NAME` filled from the earlier stage of that name."""
    stages = tree.get("stages")
    if not isinstance(stages, list):
        return tree
    whole: dict[str, dict[str, Any]] = {}
    for index, stage in enumerate(stages):
        if not isinstance(stage, dict):
            raise RecipeError(f"stages[{index}]: found {stage!r}; wanted a mapping.")
        wanted = stage.get("extends")
        if wanted is not None and wanted not in whole:
            earlier = names.suggestion(str(wanted), list(whole)) if whole else " None is earlier."
            raise RecipeError(f"stages[{index}].extends: no earlier stage '{wanted}'.{earlier}")
        merged = {**(whole[wanted] if wanted else {}), **stage}
        merged.pop("extends", None)
        whole[str(merged.get("name", index))] = merged
        stages[index] = merged
    return tree


def _spelled(location: Sequence[int | str]) -> str:
    text = ""
    for item in location:
        text += f"[{item}]" if isinstance(item, int) else f".{item}" if text else item
    return text


def told(where: str, reason: ValidationError) -> RecipeError:
    """What pydantic found wrong, each with its path."""
    lines = []
    for error in reason.errors():
        message = error["msg"].removeprefix("Value error, ")
        # Of a missing key the input is all that stands around it.
        silent = error["type"] in ("value_error", "missing")
        found = "" if silent else f" Found {error['input']!r}."
        if len(found) > 200:
            found = ""
        lines.append(f"{_spelled(error['loc']) or 'recipe'}: {message}{found}")
    # A wrong item makes its parent wrong too ("at least 1 item"): the deepest complaint is the true one.
    deepest = max(len(error["loc"]) for error in reason.errors())
    told = [
        line for line, e in zip(lines, reason.errors(), strict=True) if len(e["loc"]) == deepest
    ]
    return RecipeError("\n".join(f"{where}: {line}" for line in told))


def build(tree: Any, where: str = "recipe") -> Recipe:
    """A Recipe of plain data."""
    found = _mapping(tree, where)
    try:
        return Recipe.model_validate(_extended(found))
    except ValidationError as reason:
        raise told(where, reason) from reason
    except RecipeError as reason:
        raise RecipeError(f"{where}: {reason}") from reason


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file, with overrides, its parts not yet looked up."""
    tree = read_yaml(path)
    for assignment in overrides:
        override(tree, assignment)
    return build(tree, str(path))


def dump(recipe: Recipe) -> str:
    """The complete recipe as YAML: running this text again is the same run."""
    plain = recipe.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def parts(recipe: Recipe) -> list[tuple[str, str, Part | Term]]:
    """Every named part of a recipe: (its path, its family, the part)."""
    found: list[tuple[str, str, Part | Term]] = [("student", "students", recipe.student)]
    for number, part in enumerate(recipe.students):
        found.append((f"students[{number}]", "students", part))
    if recipe.teacher:
        found.append(("teacher", "teachers", recipe.teacher))
    for index, stage in enumerate(recipe.stages):
        found.append((f"stages[{index}].source", "sources", stage.source))
        for number, term in enumerate(stage.objective):
            found.append((f"stages[{index}].objective[{number}]", "objectives", term))
    for number, part in enumerate(recipe.track):
        found.append((f"track[{number}]", "trackers", part))
    if recipe.evaluate:
        found.append(("evaluate.source", "sources", recipe.evaluate.source))
        for number, measure in enumerate(recipe.evaluate.measures):
            found.append((f"evaluate.measures[{number}]", "evaluation", measure))
    for number, measure in enumerate(recipe.watch.measures if recipe.watch else ()):
        found.append((f"watch.measures[{number}]", "evaluation", measure))
    return found


def checked(
    part: Part | Term, family: str, where: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function a part names, and its options as that function's annotations want them."""
    try:
        function = names.find(family, part.name)
    except RecipeError as reason:
        raise RecipeError(f"{where}: {reason}") from reason
    known = names.options(function)
    values = {}
    for key, value in part.options.items():
        if key not in known:
            if family == "objectives" and key in Linked.model_fields:
                raise RecipeError(
                    f"{where}: '{key}' of '{part.name}' is of taps, and 'at' says of which; it is not given."
                )
            there = ", ".join(known) or "none"
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise RecipeError(
                f"{where}: '{part.name}' has no option '{key}'.{hint} It has: {there}."
            )
        values[key] = _typed(value, known[key], f"{where}.{part.name}.{key}")
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and name not in values
    ]
    if missing:
        raise RecipeError(f"{where}: '{part.name}' needs {', '.join(missing)}, which is not given.")
    return function, values


def _typed(value: Any, parameter: inspect.Parameter, where: str) -> Any:
    if isinstance(value, Ramp):
        if _plain(parameter.annotation) is not float:
            raise RecipeError(
                f"{where}: takes no ramp; wanted one number. What may be any fraction between its limits takes one."
            )
        for end in (value.start, value.end):
            _typed(end, parameter, where)
        return value
    if parameter.annotation is inspect.Parameter.empty or isinstance(value, BaseModel):
        return value
    try:
        return TypeAdapter(parameter.annotation).validate_python(value)
    except ValidationError as reason:
        kinds = set(get_args(parameter.annotation)) - {NoneType}
        several = get_origin(parameter.annotation) in (Union, UnionType) and len(kinds) > 1
        first, *others = _nearest(value, reason) if several else reason.errors()[:1]
        # What may be several things is wrong as each of them, under a name that no recipe has.
        place = _spelled((where, *first["loc"][several:]))
        if (
            first["type"] == "value_error"
        ):  # our own: it says what was found, where that may be said
            raise RecipeError(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None
        told = "; or ".join(dict.fromkeys(error["msg"] for error in (first, *others)))
        raise RecipeError(f"{place}: {told}. Found {first['input']!r}.") from reason


def _plain(annotation: Any) -> Any:
    """The type without its limits."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _nearest(value: Any, reason: ValidationError) -> list[ErrorDetails]:
    """The first complaint about something inside a value, else about its size; else all, of what it is not."""
    errors = reason.errors()
    inside = [error for error in errors if error["input"] is not value]
    shaped = [e for e in errors if e["type"] != "literal_error" and not e["type"].endswith("_type")]
    return inside[:1] or shaped[:1] or errors


def control_of(recipe: Recipe) -> Recipe:
    """The control arm: the same student, tokens, order and steps, learning from the text alone.

    It keeps the teacher, since the student may be made of it, but nothing asks it for a signal.
    """
    alone = (Term(name="cross_entropy"),)
    stages = tuple(
        stage.model_copy(update={"objective": alone, "alpha": None, "ban": (), "forward": "free"})
        for stage in recipe.stages
    )
    # A checkpoint to begin at is the student's, and learned from the teacher.
    resume = "none" if recipe.resume == "none" else "auto"
    # Its folder is inside the run's: carrying its own recipe out again lands there.
    place = {"name": "control", "runs": f"{recipe.runs}/{recipe.name}"}
    return recipe.model_copy(update={"stages": stages, "control": False, "resume": resume, **place})
