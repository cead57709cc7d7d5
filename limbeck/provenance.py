"""Where a run comes from: code, versions, machine, settings. Enough to explain and to repeat it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from typing import Any

import torch

from limbeck.recipe import Recipe

PACKAGES = ("limbeck", "torch", "transformers", "tokenizers", "safetensors", "peft", "numpy")


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """The versions of what a run computes with, as far as it is installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git(*words: str) -> bytes | None:
    """What git says of the working folder, or None where there is no repository."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, check=False)  # noqa: S603, S607
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def commit() -> dict[str, str | None]:
    """The commit of the working folder, and the hash of what differs from it."""
    head, changes = _git("rev-parse", "HEAD"), _git("diff", "HEAD")
    return {
        "commit": head.decode().strip() if head else None,
        "changes": hashlib.sha256(changes).hexdigest() if changes else None,
    }


def hardware() -> dict[str, Any]:
    """The machine, as far as it changes numbers or speed."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def of_run(recipe: Recipe, **prints: Any) -> dict[str, Any]:
    """All that provenance.json holds. The command is rebuilt from the program's name: argv may hold anything."""
    return {
        "command": f"limbeck {sys.argv[1] if len(sys.argv) > 1 else 'train'} recipe.yaml",
        "seed": recipe.seed,
        **commit(),
        "versions": versions(),
        "hardware": hardware(),
        **prints,
    }
