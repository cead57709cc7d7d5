"""A tiny model of every family whose packed documents stay apart, and of some that leak."""

import tiny
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

COMMON = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "attention_dropout": 0.0,
}
EAGER = ("gemma2", "gptj", "gpt_oss", "bloom")
EXPERTS = ("mixtral", "qwen3_moe", "granitemoe", "olmoe", "gpt_oss")
MOE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES = {
    "llama": {"attention_bias": True},
    "mistral": {"sliding_window": 4},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"final_logit_softcapping": 1.5, "sliding_window": 4, "query_pre_attn_scalar": 4},
    "gemma3_text": {"final_logit_softcapping": 2.0, "sliding_window": 4},
    "phi": {},
    "phi3": {"sliding_window": 4},
    "gpt2": {"n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "gpt_neox": {"rotary_pct": 0.5},
    "gptj": {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    "olmo2": {},
    "cohere": {"logit_scale": 0.3, "use_qk_norm": True},
    "cohere2": {"logit_scale": 0.4, "sliding_window": 4},
    "granite": {
        "logits_scaling": 3.0,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.3,
    },
    "smollm3": {},
    "starcoder2": {"use_bias": True},
    "stablelm": {},
    "apertus": {},
    "arcee": {},
    "ernie4_5": {},
    "exaone4": {"sliding_window": 4},
    "glm": {"pad_token_id": 0},
    "glm4": {"pad_token_id": 0},
    "granitemoe": {**MOE, "logits_scaling": 2.0},
    "helium": {},
    "nemotron": {},
    "olmo": {},
    "olmo3": {"sliding_window": 4},
    "olmoe": MOE,
    "seed_oss": {"residual_dropout": 0.0},
    "mixtral": MOE,
    "qwen3_moe": {**MOE, "moe_intermediate_size": 8},
}
BAMBA = {
    "attn_layer_indices": [1],
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}


def build(family, **changes):
    """A random model of a family, of a few thousand parameters; float64 where its experts allow it."""
    config = CONFIG_MAPPING[family](**{**COMMON, **FAMILIES.get(family, {}), **changes})
    # These know the eager attention only; the others run what users run.
    kind = "eager" if family in EAGER else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kind)
    # The grouped product of the experts knows no float64.
    return tiny.randomised(model.float() if family in EXPERTS else model.double())
