"""Runs a model's last blocks again: what entered each is kept once, and every change to a block starts from there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout

_CLOSE = 1e-3
"""Of the largest hidden state: how far two runs of the same blocks may be apart."""


@dataclass
class Entered:
    """One forward: what entered each block, and what left the last norm.

    states: (batch, time, width) for each block. options: what else each was given. last: (batch, time, width).
    """

    states: list[Tensor] = field(default_factory=list)
    options: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    last: Tensor | None = None


def enter(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, mask: Tensor | None
) -> Entered:
    """One forward of the trunk. input_ids, position_ids: (batch, time). mask: numbers (batch, 1, time, time), added to scores."""
    found = Entered()
    with contextlib.ExitStack() as stack:
        for block in layout.layers(model):
            handle = block.register_forward_pre_hook(_keeps(found), with_kwargs=True)
            stack.callback(handle.remove)
        output = layout.trunk(model)(
            input_ids=input_ids, position_ids=position_ids, attention_mask=mask, use_cache=False
        )
    found.last = output.last_hidden_state
    return found


def _keeps(found: Entered) -> Callable[..., None]:
    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        named = dict(named)
        states, *rest = given if given else [named.pop("hidden_states")]
        found.states.append(states)
        found.options.append((tuple(rest), named))

    return keep


def onward(model: PreTrainedModel, entered: Entered, block: int) -> Tensor:
    """Runs the blocks from `block` on, and the last norm, on what entered: hidden states (batch, time, width)."""
    states = entered.states[block]
    pairs = zip(layout.layers(model), entered.options, strict=True)
    for module, (rest, named) in list(pairs)[block:]:
        output = module(states, *rest, **named)
        states = output[0] if isinstance(output, tuple) else output
    found: Tensor = layout.final_norm(model)(states)
    return found


def check(model: PreTrainedModel, entered: Entered) -> None:
    """Refuses a family that does more than run its blocks one after the other, once all of them gave something else."""
    assert entered.last is not None
    whole = len(entered.states) == len(layout.layers(model))
    off = onward(model, entered, 0) - entered.last if whole else None
    if off is None or not bool(off.abs().max() <= _CLOSE * entered.last.abs().max()):
        raise ModelError(
            f"{type(layout.plain_model(model)).__name__}: its blocks, run one after the other, give other hidden states than "
            "the model; wanted a family that does nothing between them, as Llama. Choose such a model."
        )
