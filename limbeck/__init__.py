"""Limbeck distils large language models.

The names below are what a teacher, an objective or a script of your own needs. Once it is imported, transformers' Auto
classes load every model that it exports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from limbeck.models.arrival import await_transformers

if TYPE_CHECKING:
    from limbeck.errors import LimbeckError
    from limbeck.recipe import Recipe
    from limbeck.types import Batch, Rows, Signal, TopK, Wanted

__all__ = ["Batch", "LimbeckError", "Recipe", "Rows", "Signal", "TopK", "Wanted"]

await_transformers()
_HOMES = {"LimbeckError": "errors", "Recipe": "recipe"}


def __getattr__(name: str) -> Any:
    """A public name, fetched when it is first asked for: `import limbeck` alone needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'limbeck' has no attribute '{name}'")
    return getattr(importlib.import_module(f"limbeck.{_HOMES.get(name, 'types')}"), name)
