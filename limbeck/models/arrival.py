"""Tells transformers of our model's type as soon as it has a list of types, and imports our model when it is asked for.

Not before: transformers' own rooms import the Auto classes while they are half there, and our model stands on those rooms.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TYPES = "transformers.models.auto.configuration_auto"
"""Where transformers lists the types of models that it knows."""
_OURS = "limbeck_llamba"
_CONFIG = "LimbeckLlambaConfig"


class _Then(importlib.abc.Loader):
    """Loads as another loader does, and does something more at the end."""

    def __init__(self, loader: Any, more: Callable[[], None]) -> None:
        self._loader, self._more = loader, more

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._loader.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._more()


class _Arrival(importlib.abc.MetaPathFinder):
    """Waits for the list of types to be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        if name != TYPES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, _tell)
        return spec


class _Room:
    """Stands for the module of our config until somebody asks for it; to import that registers config and model."""

    def __getattr__(self, name: str) -> Any:
        if name != _CONFIG:
            raise AttributeError(name)
        return getattr(importlib.import_module("limbeck.models.hybrid"), name)


def await_transformers() -> None:
    """Makes our model's type known now if transformers' list is there already, or else as soon as it is."""
    if TYPES in sys.modules:
        _tell()
    elif not any(type(one).__name__ == _Arrival.__name__ for one in sys.meta_path):
        sys.meta_path.insert(0, _Arrival())


def _tell() -> None:
    known: Any = sys.modules[TYPES].CONFIG_MAPPING
    known._mapping = type(known._mapping)(known._mapping) | {_OURS: _CONFIG}
    known._modules[_OURS] = _Room()
