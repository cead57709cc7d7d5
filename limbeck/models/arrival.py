"""Makes models of ours known to transformers' Auto classes once those are there, and imports nothing before."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO = "transformers.models.auto.modeling_auto"


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
    """Waits for the Auto classes to be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        if name != _AUTO:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, _register)
        return spec


def await_transformers() -> None:
    """Registers our models now if transformers' Auto classes are imported already, or else as soon as they are."""
    if _AUTO in sys.modules:
        _register()
    elif not any(isinstance(one, _Arrival) for one in sys.meta_path):
        sys.meta_path.insert(0, _Arrival())


def _register() -> None:
    # Where our own rooms are what asks for transformers, they are half there yet; models/hybrid.py then does it itself.
    if "limbeck.models.mixers" in sys.modules:
        return
    importlib.import_module("limbeck.models.hybrid").register()
