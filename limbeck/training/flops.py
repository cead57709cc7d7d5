"""How fast a stage could go at most: tokens per second at the devices' peak, for the share of it that a run uses."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from limbeck.models import layout, quantised
from limbeck.recipe import Recipe
from limbeck.training.parallel import World
from limbeck.training.step import Step
from limbeck.types import Teacher

TERA = 1e12
# Dense bfloat16 teraflops a second of one device, from the makers' data sheets; the first name that is part of the
# device's own counts, so longer ones stand first.
PEAKS = {
    "GB200": 2500.0, "B200": 2250.0, "H200": 989.0, "GH200": 989.0, "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0,
    "A100": 312.0, "A10G": 70.0, "A10": 125.0, "A40": 149.7, "A30": 165.0, "L40S": 362.0, "L4": 121.0,
    "RTX 6000 Ada": 364.0, "RTX 4090": 165.2, "RTX 3090": 71.0,
}  # fmt: skip


def known_peak(device: str) -> float | None:
    """Dense bfloat16 teraflops a second of a device of this name, where they are known."""
    return next((peak for name, peak in PEAKS.items() if name in device), None)


def fastest(
    recipe: Recipe,
    step: Step,
    teacher: Teacher | None,
    world: World,
    *,
    length: int,
    dtype: torch.dtype,
    plain: bool,
) -> float | None:
    """Tokens per second of all ranks at their peak, or None where peak or work is not known.

    plain: whether what is multiplied are the student's parameters as they stand, and not products of them.
    """
    peak = recipe.telemetry.peak_teraflops
    if peak is None and world.device.type == "cuda" and dtype == torch.bfloat16:
        peak = known_peak(torch.cuda.get_device_name(world.device))
    if peak is None or not plain:
        return None
    each = per_token(step.student, length=length, trains=True)  # type: ignore[arg-type]
    if each is not None and recipe.teacher is not None and recipe.teacher.name == "live":
        model: Any = vars(teacher).get("model") if teacher is not None else None
        beside = per_token(model, length=length, trains=False) if model is not None else 0.0
        each = None if beside is None else each + beside
    return None if each is None else peak * TERA * world.size / each


def per_token(model: PreTrainedModel, *, length: int, trains: bool) -> float | None:
    """Floating-point operations of one token: two a parameter forward, as many for what comes before it, and for its own slope.

    Attention is counted over the whole length, as in Chowdhery et al. (2022). What activation checkpointing computes
    again is no work of the model's. None for mixtures of experts, of which each token meets a few.
    """
    sizes: Any = model.config.get_text_config()
    if getattr(sizes, "num_local_experts", None) or getattr(sizes, "num_experts", None):
        return None
    whole = layout.plain_model(model)
    inputs, outputs = whole.get_input_embeddings(), whole.get_output_embeddings()
    looked_up = (
        set() if outputs is not None and outputs.weight is inputs.weight else {id(inputs.weight)}
    )
    packed = quantised.held(model)[0]
    multiplied = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in looked_up]
    every = packed + sum(p.numel() for p in multiplied if p.is_floating_point())
    learning = sum(p.numel() for p in multiplied if p.requires_grad)
    blocks = getattr(sizes, "layers_block_type", None)
    layers = (
        sizes.num_hidden_layers if blocks is None else sum("attention" in kind for kind in blocks)
    )
    heads = sizes.num_attention_heads
    width = heads * (getattr(sizes, "head_dim", None) or sizes.hidden_size // heads)
    attention = 4.0 * layers * width * length
    backward = 2.0 * every + 2.0 * learning + 2.0 * attention if trains else 0.0
    return float(2.0 * every + attention + backward)
