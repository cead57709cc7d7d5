"""The teacher with fewer layers: evenly chosen, listed, or those that change the stream most."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from transformers import PreTrainedModel

from limbeck.errors import RecipeError
from limbeck.models import layout, place
from limbeck.models.likeness import block_importance
from limbeck.types import Materials, Source

LOOKED_AT = 8
"""Rows of text over which the importance of a block is measured."""


def pruned(
    materials: Materials,
    *,
    layers: int | list[int],
    choose: Literal["even", "importance"] = "even",
    model: str | None = None,
) -> PreTrainedModel:
    """A copy of the teacher (or of `model`) that keeps some of its layers, counted from 0.

    layers: how many, or which. choose: how a number is turned into layers: `even` keeps first and last and
    spreads the rest, `importance` keeps those with the highest block importance on the stage's text.
    """
    origin = materials.load(model, None) if model else materials.teacher()
    if origin is None:
        raise RecipeError("student.pruned: there is no teacher to prune; give 'model'.")
    depth = len(layout.layers(origin))
    if isinstance(layers, list):
        return _keeping(origin, _checked(layers, depth))
    if not 0 < layers <= depth:
        raise RecipeError(f"student.pruned.layers: found {layers}; wanted 1 to {depth}.")
    only_shown = next(origin.parameters()).is_meta  # and so has no importance to measure
    if choose == "even" or only_shown:
        return _keeping(origin, evenly(layers, depth))
    return _keeping(origin, most_important(origin, materials.text, layers))


def evenly(count: int, depth: int) -> list[int]:
    """`count` of `depth` layers, first and last among them, at distances as equal as can be."""
    if count == 1:
        return [0]
    return [round(index * (depth - 1) / (count - 1)) for index in range(count)]


def _checked(layers: list[int], depth: int) -> list[int]:
    if not layers or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= depth:
        raise RecipeError(
            f"student.pruned.layers: found {layers}; wanted rising numbers from 0 to {depth - 1}."
        )
    return layers


def most_important(model: PreTrainedModel, text: Source | None, count: int) -> list[int]:
    """The `count` layers of highest block importance over a few rows of text, in their order."""
    if text is None:
        raise RecipeError("student.pruned.choose: 'importance' needs a stage with text.")
    rows = min(LOOKED_AT, text.rows)
    scores = block_importance(model, text.batch(range(rows)))
    best = scores.topk(count).indices.tolist()
    return sorted(best)


def _keeping(origin: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    """A new model of the same family whose layers are copies of the kept ones."""
    config = copy.deepcopy(origin.config)
    depth = origin.config.num_hidden_layers
    for key, value in origin.config.to_dict().items():
        # One entry a layer: kinds of attention, layers without rope, and whatever else a family lists.
        if isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[index] for index in kept])
    config.num_hidden_layers = len(kept)
    blocks = next(name for name, found in origin.named_modules() if found is layout.layers(origin))
    with torch.device(next(origin.parameters()).device):
        student = place.cast(type(origin)(config), next(origin.parameters()).dtype)
    renamed = {f"{blocks}.{old}.": f"{blocks}.{new}." for new, old in enumerate(kept)}
    state = {}
    for name, tensor in origin.state_dict().items():
        if not name.startswith(f"{blocks}."):
            state[name] = tensor
            continue
        for old, new in renamed.items():
            if name.startswith(old):
                state[new + name.removeprefix(old)] = tensor
    student.load_state_dict(state, strict=True)
    student.generation_config = copy.deepcopy(origin.generation_config)
    return student
