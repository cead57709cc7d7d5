"""Writes docs/recipe.md: every key of a recipe and every option of a part, from the code that reads them.

`make docs` runs it. The test fails where the page is not what this makes.
"""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from limbeck import names, recipe, spelling
from limbeck.recipe import Recipe
from limbeck.sampling.scorer import Scores

PAGE = Path(__file__).with_name("recipe.md")
_WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
_WORDS |= {"NoneType": "null", "Any": "anything", "dict": "mapping"}
_WORDS |= {"Part": "a part", "Term": "a term", "Budget": "a budget", "Ramp": "a ramp"}
_WORDS |= {"Link": "taps", "Projector": "[a projector](#projector)"}
_LIMITS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
TOP = """# The recipe, key by key

*Written by `docs/make_recipe_page.py` from `limbeck/recipe.py`; do not edit it here.*

A recipe is one YAML file: plain data, no aliases, no key twice, no key that is not on this page. `limbeck show` prints it
complete, and `key.path=value` after the file's name changes one key (numbers in the path count list items from 0):

    limbeck train recipe.yaml seed=1 stages.0.optimizer.learning_rate=1e-4

A **part** is a name, `forward_kl`, or a name with its options, `{forward_kl: {temperature: 2.0}}`. A **term** is a part whose
`weight` (default 1.0) and numbers may be a **ramp** `{from: 1.0, to: 0.2, shape: cosine}` over the stage. With a label,
`feature_mse as mlp-gate: {...}`, one objective may stand several times in a stage; the log, `ban` and errors know the term by its
label. A part may also be a dotted name of your own, `my_package.my_objective`. A term between [taps](#linked) also says `at`
which modules of student and teacher it compares. A **budget** is a number of tokens or optimizer steps: `200k tokens`,
`1.5B tokens`, `300 steps`; a budget of tokens is met by the first step that reaches it, and a token that does not count
(a separator's) is counted here, because it is computed.
"""


_SIGNS = {"Gt": ("gt", "> "), "Ge": ("ge", ">= "), "Lt": ("lt", "< "), "Le": ("le", "<= ")}


def _limits(told: Any) -> list[str]:
    """The limits of numbers that a Field tells."""
    found = []
    for each in getattr(told, "metadata", ()):
        if type(each).__name__ in _SIGNS:
            key, sign = _SIGNS[type(each).__name__]
            found.append(f"{sign}{getattr(each, key)}")
    return found


def kind(annotation: Any) -> str:
    """A type in the words of a YAML file."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = ", ".join(limit for each in inside[1:] for limit in _limits(each))
        return kind(inside[0]) + (f" ({limits})" if limits else "")
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(kind(each) for each in inside))
    if origin is tuple and inside[-1:] != (Ellipsis,):
        return f"list of {len(inside)}: {kind(inside[0])}"
    if origin in (tuple, list):
        return f"list of {kind(inside[0])}"
    name = getattr(origin or annotation, "__name__", str(annotation))
    return _WORDS.get(name, f"[{name}](#{name.lower()})")


def default_of(value: Any) -> str:
    """A default as YAML would spell it."""
    if value is PydanticUndefined or value is inspect.Parameter.empty:
        return "**required**"
    if isinstance(value, spelling.Budget):
        return f"`{value.amount} {value.unit}`"
    if isinstance(value, BaseModel):
        return "its own defaults"
    if isinstance(value, tuple):
        return "`[" + ", ".join(getattr(each, "name", str(each)) for each in value) + "]`"
    spelled = {None: "null", True: "true", False: "false"} if not isinstance(value, float) else {}
    return f"`{spelled.get(value, value) if isinstance(value, bool | None) else value}`"


def limits(field: FieldInfo) -> str:
    """' (> 0, <= 1)' of a number that has limits."""
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in _LIMITS.items()
        if hasattr(limit, name)
    ]
    return f" ({', '.join(found)})" if found else ""


def table(model: type[BaseModel], where: str) -> list[str]:
    """The heading and the keys of one node of the tree."""
    lines = [f"## {model.__name__}", "", f"At {where}. {first_line(model)}", ""]
    lines += ["| key | what | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if field.exclude:
            continue
        what = f"{kind(field.annotation)}{limits(field)}"
        value = default_of(field.default)
        lines.append(f"| `{field.alias or name}` | {what} | {value} | {field.description} |")
    return [*lines, ""]


def first_line(thing: Any) -> str:
    """What a thing is for."""
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def parts(family: str) -> list[str]:
    """Each part of a family with its options."""
    lines = [f"### {family}", ""]
    for name, line in names.members(family).items():
        lines += [f"**{name}**: {line}", ""]
        options = names.options(names.find(family, name))
        if options:
            lines += ["| option | what | default |", "|---|---|---|"]
            for option, parameter in options.items():
                value = default_of(parameter.default)
                lines.append(f"| `{option}` | {kind(parameter.annotation)} | {value} |")
            lines.append("")
    return lines


def page() -> str:
    """The whole page."""
    lines = [TOP]
    lines += table(Recipe, "the top of the file")
    lines += table(recipe.Stage, "`stages[n]`")
    lines += table(recipe.Optimizer, "`stages[n].optimizer`")
    lines += table(recipe.Compute, "`compute`")
    lines += table(recipe.Checkpoints, "`checkpoints`")
    lines += table(recipe.Export, "`export`")
    lines += table(recipe.Telemetry, "`telemetry`")
    lines += table(recipe.Evaluate, "`evaluate`")
    lines += table(recipe.Benchmarks, "`evaluate.benchmarks`")
    lines += table(recipe.Watch, "`watch`")
    lines += table(spelling.Ramp, "`weight` or a number among a term's options")
    lines += table(spelling.Linked, "a term that compares taps, among its options")
    lines += table(spelling.Projector, "`projector` of a term that compares taps")
    lines += table(Scores, "`server` of a teacher that is asked over HTTP")
    lines += ["## The parts and their options", ""]
    lines += [
        "What a part means in detail stands in its own file, `limbeck/<family>/<name>.py`. Of a teacher's options the run",
        "fills in `vocab`, `tokenizer`, `device` and `dtype` itself, and of a source's `seed`, where they are not given.",
        "",
    ]
    for family in names.FAMILIES:
        lines += parts(family)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE} is written.")
