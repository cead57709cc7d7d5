"""Projectors: linear maps from the student's width to the teacher's, made once for the taps of a stage's terms.

From student to teacher, never the other way: a trained map of the teacher could make everything equal by being 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import RecipeError
from limbeck.recipe import Projector
from limbeck.training.links import Joint, Tied

Look = Callable[[Sequence[str]], dict[str, Tensor]]
"""Features of the teacher at taps, on a few rows: {tap: (tokens, width)}."""


def made(terms: Sequence[Any], dtype: torch.dtype, look: Look) -> nn.ModuleDict:
    """The projectors of these terms by name, in `dtype`, a pure function of seed, name and what `look` shows."""
    wanted: dict[str, tuple[Joint, Projector, int]] = {}
    for term in terms:
        if isinstance(term, Tied) and term.linked.projector is not None:
            for joint in term.joints:
                if joint.projector:
                    wanted[joint.projector] = joint, term.linked.projector, term.seed
    watched = [joint.teacher for joint, how, _ in wanted.values() if how.start == "pca"]
    seen = look(list(dict.fromkeys(watched))) if watched else {}
    return nn.ModuleDict(
        {
            name: _one(name, *each, seen.get(each[0].teacher)).to(dtype)
            for name, each in wanted.items()
        }
    )


def _one(name: str, joint: Joint, how: Projector, seed: int, seen: Tensor | None) -> nn.Linear:
    """A projector at its start, in float64: weight (teacher's width, student's width)."""
    assert joint.widths is not None
    with torch.random.fork_rng(devices=()):  # its own first numbers are drawn and thrown away
        found = nn.Linear(*joint.widths, bias=how.bias, dtype=torch.float64)
    data = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    source = torch.Generator().manual_seed(int.from_bytes(data[:8], "little") >> 1)
    with torch.no_grad():
        if how.bias:
            found.bias.zero_()
        if how.start == "identity":
            nn.init.eye_(found.weight)
        elif how.start == "random":
            nn.init.normal_(found.weight, std=joint.widths[0] ** -0.5, generator=source)
        elif how.start == "orthogonal":
            nn.init.orthogonal_(found.weight, generator=source)
        else:
            assert seen is not None
            _main_directions(found, seen.to("cpu", torch.float64))
    return found


def _main_directions(projector: nn.Linear, seen: Tensor) -> None:
    """The teacher's main directions as columns, the mean as bias where there is one. seen: (tokens, width)."""
    if seen.shape[0] < 2:
        raise RecipeError(
            f"projector: start 'pca' found {seen.shape[0]} tokens that count in the first rows of the stage; wanted 2 or "
            "more. Say 'start: orthogonal'."
        )
    mean = seen.mean(0)
    apart = seen - mean
    _, vectors = torch.linalg.eigh(apart.T @ apart)  # rising
    directions = vectors.flip(-1)[:, : projector.in_features]
    projector.weight.zero_()
    projector.weight[:, : directions.shape[1]] = directions
    if projector.bias is not None:
        projector.bias.copy_(mean)
