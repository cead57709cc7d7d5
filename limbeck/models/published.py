"""Llamba as it was published (Bick et al., 2025): its config and the names of its tensors, turned into ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import hybrid, place
from limbeck.models.llamba_config import LimbeckLlambaConfig

_MARK = "ssm_cfg"
_EPS = 1e-5
"""Of the norms of a block, whatever the config says of the last one."""
_PLACES = (
    ("backbone.embedding.", "model.embed_tokens."),
    ("backbone.final_layernorm.", "model.final_layernorm."),
    ("backbone.layers.", "model.layers."),
)


def is_published(values: dict[str, Any]) -> bool:
    """Whether a config.json is of the published layout, which has no model_type that transformers knows."""
    return isinstance(values.get(_MARK), dict) and "d_model" in values


def config(values: dict[str, Any], where: str) -> LimbeckLlambaConfig:
    """Our config of a published one. Refuses what our model has not."""
    mixer, mlp = values[_MARK], values.get("mlp_cfg", {})
    wanted: list[tuple[str, Any, tuple[Any, ...]]] = [
        ("ssm_cfg.activation", mixer.get("activation", "identity"), ("identity",)),
        ("ssm_cfg.expand", mixer.get("expand", 1), (1,)),
        ("ssm_cfg.bias", mixer.get("bias", False), (False,)),
        ("ssm_cfg.conv_bias", mixer.get("conv_bias", True), (True,)),
        ("lm_head_bias", values.get("lm_head_bias", False), (False,)),
        ("mlp_cfg.bias", mlp.get("bias", False), (False,)),
        ("mlp_cfg.act_fn", mlp.get("act_fn", "silu"), ("silu", "swish")),
        ("norm_epsilon", values.get("norm_epsilon", _EPS), (_EPS,)),
    ]
    for name, found, known in wanted:
        if found not in known:
            raise ModelError(f"{where}: {name} is {found!r}; wanted {known[0]!r}.")
    try:
        width, heads = values["d_model"], mixer["n_v_heads"]
        groups, state, inner = mixer["n_qk_heads"], mixer["d_state"], mlp["intermediate_size"]
        layers, vocab = values["n_layer"], values["vocab_size"]
    except KeyError as reason:
        raise ModelError(
            f"{where}: {reason} is missing; wanted the config of a published Llamba."
        ) from reason
    multiple = values.get("pad_vocab_size_multiple", 8)
    return LimbeckLlambaConfig(
        vocab_size=-(-vocab // multiple) * multiple,
        tie_word_embeddings=bool(values.get("tie_embeddings", False)),
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        rms_norm_eps=_EPS,
        pad_token_id=None,
        bos_token_id=values.get("bos_token_id"),
        eos_token_id=values.get("eos_token_id"),
        attn_layer_indices=[],
        mamba_n_heads=heads,
        mamba_d_head=width // heads,
        mamba_n_groups=groups,
        mamba_d_state=state,
        mamba_d_conv=mixer.get("d_conv", 4),
        mamba_expand=1,
        mamba_chunk_size=mixer.get("chunk_size", 128),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
    )


def renamed(name: str) -> str:
    """The place in our model of a published tensor."""
    for theirs, ours in _PLACES:
        if name.startswith(theirs):
            name = ours + name.removeprefix(theirs)
    return hybrid.renamed(name.replace(".mixer.", ".mamba."))


def load(folder: Path, made: LimbeckLlambaConfig, name: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a published folder, every tensor of it in its place."""
    state: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        state |= {renamed(key): tensor for key, tensor in load_file(file).items()}
    model: PreTrainedModel = hybrid.LimbeckLlambaForCausalLM(made)
    if made.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    try:
        report = model.load_state_dict(state, strict=False)
    except RuntimeError as reason:
        raise ModelError(f"{name}: the tensors in {folder} do not fit: {reason}") from reason
    missing = [
        key
        for key in report.missing_keys
        if key != "lm_head.weight" or not made.tie_word_embeddings
    ]
    if missing or report.unexpected_keys:
        raise ModelError(
            f"{name}: {folder} lacks {missing[:5]} and has {report.unexpected_keys[:5]} too many; wanted all tensors of a "
            "published Llamba."
        )
    model.tie_weights()
    return place.cast(model, dtype).eval()
