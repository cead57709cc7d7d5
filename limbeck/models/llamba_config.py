"""The config of a hybrid with Llamba's mixer: apart, so that it is there without any model class of transformers."""

from __future__ import annotations

from typing import Any

from transformers.models.bamba.configuration_bamba import BambaConfig


class LimbeckLlambaConfig(BambaConfig):  # type: ignore[misc]
    """Bamba's keys, of which those of the mixer mean the same."""

    model_type = "limbeck_llamba"

    def __post_init__(self, **others: Any) -> None:
        super().__post_init__(**others)
        # By which the Auto classes choose among what a config stands for.
        if not vars(self).get("architectures"):
            self.architectures = ["LimbeckLlambaForCausalLM"]
