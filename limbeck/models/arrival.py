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
    """Waits for transformers' tables of models to be imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        more = _AFTER.get(name)
        if more is None:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = _Then(spec.loader, more)
        return spec


def await_transformers() -> None:
    """Registers our models in the tables that are imported already, and in the others as soon as they are."""
    for name, more in _AFTER.items():
        if name in sys.modules:
            more()
    if not any(isinstance(one, _Arrival) for one in sys.meta_path):
        sys.meta_path.insert(0, _Arrival())


def _register_config() -> None:
    # Bamba's config asks for the table of models. Where that is on its way, it comes back to this when it is complete.
    if _MODELS not in sys.modules:
        _add_config()


def _add_config() -> None:
    from transformers.models.auto.configuration_auto import AutoConfig

    from limbeck.models.llamba_config import LimbeckLlambaConfig

    AutoConfig.register(LimbeckLlambaConfig.model_type, LimbeckLlambaConfig, exist_ok=True)


def _register_model() -> None:
    """Adds a class that is imported when it is first asked for.

    Not before: the tables may have come in the middle of a model's own import, such as Bamba's, which ours is made of.
    """
    from transformers.models.auto.modeling_auto import AutoModelForCausalLM

    _add_config()
    from limbeck.models.llamba_config import LimbeckLlambaConfig

    AutoModelForCausalLM.register(LimbeckLlambaConfig, _Later(("",)), exist_ok=True)


class _Later(tuple[str, ...]):
    """Classes of a config, as the Auto classes accept them: here one, not yet imported."""

    def __iter__(self) -> Any:
        yield self[0]

    def __getitem__(self, number: Any) -> Any:
        return importlib.import_module("limbeck.models.hybrid").LimbeckLlambaForCausalLM


_MODELS = "transformers.models.auto.modeling_auto"
_AFTER = {
    "transformers.models.auto.configuration_auto": _register_config,
    _MODELS: _register_model,
}
