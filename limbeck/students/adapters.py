"""A frozen model with trained low-rank adapters (LoRA), merged into plain weights at export."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from transformers import PreTrainedModel

from limbeck.errors import LimbeckError, RecipeError
from limbeck.models import layout, load, quantised
from limbeck.types import Materials


def adapters(
    materials: Materials,
    *,
    model: str | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    dropout: float = 0.0,
    targets: list[str] | str = "all-linear",
    quantise: Literal["none", "nf4", "int8"] = "none",
) -> PreTrainedModel:
    """`model` (or a copy of the teacher's) with LoRA on the targets (Hu et al., 2022), through peft.

    targets: names of linear modules, or `all-linear` for all but the head. Adapters start as the identity.
    quantise: how the blocks' linear layers are held, targets or not (QLoRA; Dettmers et al., 2023); never the adapters.
    """
    load.bar_kernels()  # peft imports bitsandbytes wherever that is installed
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as reason:
        raise LimbeckError("student.adapters needs peft: pip install 'limbeck[lora]'.") from reason
    if quantise != "none":
        quantised.library()
        config = load.load_config(model) if model else materials.config
        if config is not None:
            quantised.check(load.build_on_meta(config), quantise)
    origin = materials.load(model, None) if model else materials.teacher()
    if origin is None:
        raise RecipeError("student.adapters: there is no teacher to adapt; give 'model'.")
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*tie_word_embeddings")  # an error, just below
            student = get_peft_model(origin, settings)
    except ValueError as reason:
        raise RecipeError(f"student.adapters: peft cannot place adapters: {reason}") from reason
    _check_tied(student)
    if quantise != "none":
        quantised.quantise(student, quantise)
    return student


def _check_tied(student: PreTrainedModel) -> None:
    """Refuses adapters on a table that is embedding and head at once: trained in one, merged they would be in both."""
    plain = layout.plain_model(student)
    pair = (plain.get_input_embeddings(), plain.get_output_embeddings())
    if any("base_layer" in one._modules for one in pair) and pair[0].weight is pair[1].weight:
        raise RecipeError(
            f"student.adapters.targets: the embeddings of this {type(plain).__name__} are its head as well (tied), and an "
            "adapter on them would be in both only once it is merged. Leave them out of the targets, or adapt a model whose head is its own."
        )


def finish(student: Any) -> PreTrainedModel:
    """The plain model with the adapters added into its weights, in the weights' own precision.

    Weights that were held in few bits are those that the adapters were trained beside, not those before.
    """
    quantised.restore(student)
    return student.merge_and_unload()
