"""Names are addresses: `forward_kl` is the function of that name in limbeck/objectives/forward_kl.py.

Listing reads the source text and imports nothing, so that it answers at once.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limbeck.errors import RecipeError

HERE = Path(__file__).parent
FAMILIES = ("objectives", "teachers", "students", "sources", "evaluation", "filters", "trackers")


def members(family: str) -> dict[str, str]:
    """The names of a family, each with the first line of its module's docstring. Imports nothing."""
    found = {}
    for path in sorted((HERE / family).glob("*.py")):
        if not path.name.startswith("_"):
            text = ast.get_docstring(ast.parse(path.read_text())) or ""
            found[path.stem] = text.partition("\n")[0]
    return found


def suggestion(wrong: str, names: list[str]) -> str:
    """' Did you mean …?' where a name is near, and the list of all."""
    near = difflib.get_close_matches(wrong, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} There are: {', '.join(names)}."


def find(family: str, name: str) -> Callable[..., Any]:
    """The function or class of this name: a member of the family, or a user's own dotted name."""
    if "." in name:
        module_name, _, attribute = name.rpartition(".")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as reason:
            raise RecipeError(f"'{name}' cannot be imported: {reason}.") from reason
        if not callable(found):
            raise RecipeError(
                f"'{name}' is {type(found).__name__}; wanted a function or a class of limbeck.{family}'s kind."
            )
        return found  # type: ignore[no-any-return]
    known = name.isidentifier() and not name.startswith("_")
    if not known or not (HERE / family / f"{name}.py").is_file():
        names = list(members(family))
        raise RecipeError(f"No '{name}' in limbeck.{family}.{suggestion(name, names)}")
    module = importlib.import_module(f"limbeck.{family}.{name}")
    return getattr(module, name)  # type: ignore[no-any-return]


def options(part: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options of a part are its keyword-only parameters."""
    parameters = inspect.signature(part, eval_str=True).parameters.values()
    return {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def takes_tokenizer(part: Callable[..., Any]) -> bool:
    """Whether the first thing that a part is given is a tokenizer."""
    first = next(iter(inspect.signature(part).parameters.values()), None)
    return first is not None and first.name == "tokenizer" and first.kind is not first.KEYWORD_ONLY
