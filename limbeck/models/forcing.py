"""Blocks that are fed what a teacher's blocks are fed, so that each learns by itself (MOHAWK's first two stages)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from limbeck.models import layout, taps

_REST = ("feed_forward", "mlp")
"""What a block does behind its mixer."""


class Forcing:
    """Replaces what enters the blocks of a model, as long as something is given, and leaves out what nobody looks at.

    mixers_alone: no term sees what stands behind the mixer of a block, so its MLP does not run then. What was given holds
    until the next forward: activation checkpointing runs a block again and must find the same.
    """

    def __init__(self, model: nn.Module, *, mixers_alone: bool) -> None:
        self._given: dict[int, Tensor] | None = None
        for number, block in enumerate(layout.layers(model)):
            block.register_forward_pre_hook(self._enters(number), with_kwargs=True)
            for name in _REST:
                rest = getattr(block, name, None)
                if mixers_alone and isinstance(rest, nn.Module):
                    rest.forward = self._skips(rest.forward)

    def give(self, entering: Mapping[int, Tensor] | None) -> None:
        """What enters the blocks of the next forward, by their numbers: (batch, time, width); None runs the model freely."""
        self._given = None if entering is None else dict(entering)

    def _enters(self, number: int) -> Callable[..., Any]:
        def enter(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if self._given is None or number not in self._given:
                return None
            inside = self._given[number]
            if given:
                return (inside.to(given[0].dtype), *given[1:]), named
            return given, named | {"hidden_states": inside.to(named["hidden_states"].dtype)}

        return enter

    def _skips(self, rest: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(hidden: Tensor) -> Tensor:
            return rest(hidden) if self._given is None else hidden

        return run


def entering(number: int) -> str:
    """The tap of what a block is given."""
    return f"{taps.BLOCKS}.{number}.{taps.ENTERING}"
