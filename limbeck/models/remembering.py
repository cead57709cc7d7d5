"""Caches of models all of whose blocks carry a state: transformers asks a cache how long its text is, and only attention tells."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import DynamicCache


class States(DynamicCache):  # type: ignore[misc]
    """States of mixers, and how many tokens were read into them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self._read = 0

    def update_conv_state(
        self, conv_states: Tensor, layer_idx: int, state_idx: int = 0, **others: Any
    ) -> Tensor:
        """Takes what a block's convolution saw, (batch, channels, time); the first block's tokens are counted."""
        self._read += conv_states.shape[-1] if layer_idx == 0 else 0
        found: Tensor = super().update_conv_state(conv_states, layer_idx, state_idx, **others)
        return found

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """How many tokens were read."""
        return self._read

    def reset(self) -> None:
        """Empties all states, for a new text."""
        super().reset()
        self._read = 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        """Of a mask that nobody looks at."""
        return self._read + query_length, 0


def stateful_alone(config: Any) -> bool:
    """Whether no block of a Bamba or of our hybrid has an attention."""
    return set(getattr(config, "layers_block_type", ())) == {"linear_attention"}


def begun(model: nn.Module) -> States | None:
    """An empty cache for a model whose own would not know its length, else None: it makes its own."""
    config = getattr(model, "config", None)
    return States(config) if stateful_alone(config) else None
