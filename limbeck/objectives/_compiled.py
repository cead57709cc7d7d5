"""Functions of (rows, vocab) tensors, compiled where that pays: eagerly each operation writes such a tensor anew."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import types
import warnings
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor

T = TypeVar("T", bound=Callable[..., object])

# Below this many ids compiling (seconds, once a process) costs more than it saves.
WIDE = 4096
# Rows of one call on a CPU, where a function holds (rows, vocab) between its passes: that much stays in the cache.
BLOCK = 32
_NUMBERS = itertools.count()


def rowwise(function: T) -> T:
    """The function, compiled for wide tensors; its first argument is (rows, vocab), and the only one that it may write to.

    One compilation serves any number of rows. Where it fails, a warning says so and the function runs as it stands.
    Set LIMBECK_EAGER=1 to have everything eagerly.
    """
    compiled: Callable[..., object] | None = None

    @functools.wraps(function)
    def either(first: Tensor, *others: object) -> object:
        nonlocal compiled
        wide = first.shape[-1] >= WIDE and first.shape[0] > 1 and first.dtype != torch.float64
        if not wide or not able(first.device.type):
            return function(first, *others)
        if compiled is None:
            compiled = or_plain(torch.compile(apart(function)), function, function.__name__)
        for one in (first, *others):
            if isinstance(one, Tensor) and one.ndim > 1 and one.shape[0] == first.shape[0]:
                torch._dynamo.maybe_mark_dynamic(one, 0)
        return compiled(first, *others)

    return cast(T, either)


def or_plain(compiled: T, plain: Callable[..., object], name: str) -> T:
    """What was compiled; from the first failure of the compiler on, of which it warns, the plain function."""
    failed = False

    def either(*told: object) -> object:
        nonlocal failed
        if not failed:
            try:
                return compiled(*told)
            except torch._dynamo.exc.BackendCompilerFailed as reason:  # before any of it ran
                failed = True
                warnings.warn(
                    f"{name} could not be compiled and runs eagerly, which is slower: "
                    + str(reason).split("\n")[0],
                    stacklevel=3,
                )
        return plain(*told)

    return cast(T, either)


def apart(function: T) -> T:
    """The function with a code object of its own.

    The compiler counts recompilations by code object and gives up after eight: closures of one definition, each
    for other terms, would share that count.
    """
    name = f"{function.__name__}_{next(_NUMBERS)}"
    made = types.FunctionType(
        function.__code__.replace(co_name=name),
        function.__globals__,
        name,
        function.__defaults__,
        function.__closure__,
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return cast(T, made)


@functools.cache
def able(device: str) -> bool:
    """Whether torch.compile can work here: a C++ compiler for the CPU, Triton for CUDA."""
    if os.environ.get("LIMBECK_EAGER", "0") not in ("", "0"):
        return False
    if device == "cpu":
        return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++", "g++"))
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True
