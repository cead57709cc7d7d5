"""A model that exists already: a smaller sibling of the teacher, or the teacher's own copy."""

from __future__ import annotations

from transformers import PreTrainedModel

from limbeck.types import Materials


def pretrained(
    materials: Materials,
    *,
    model: str,
    revision: str | None = None,
) -> PreTrainedModel:
    """The causal language model of a folder or hub name, whole.

    Its tokenizer must be the teacher's wherever an objective compares the two token by token.
    """
    return materials.load(model, revision)
