"""Where the trunk, the blocks, the last norm and the head of a model stand, in every family.

The head is more than a matrix: Gemma 2 soft-caps its logits, Cohere and Granite scale them, Phi has a bias.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import attention, mixers
from limbeck.models.low_rank import NarrowIn
from limbeck.objectives._rows import Finish
from limbeck.types import Batch

_NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "embedding_norm")
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_CAPS = ("final_logit_softcapping", "logits_soft_cap")
# Families whose packed documents were seen to stay apart (tests/models/test_layout.py). In transformers 5.23 OPT,
# XGLM, BioGPT and GPT-OSS let them see one another, and every recurrent layer carries its state across.
PACKING = frozenset(
    [
        "apertus",
        "arcee",
        "cohere",
        "cohere2",
        "ernie4_5",
        "exaone4",
        "gemma",
        "gemma2",
        "gemma3_text",
        "glm",
        "glm4",
        "gpt2",
        "gpt_neox",
        "gptj",
        "granite",
        "granitemoe",
        "helium",
        "llama",
        "mistral",
        "mixtral",
        "nemotron",
        "olmo",
        "olmo2",
        "olmo3",
        "olmoe",
        "phi",
        "phi3",
        "qwen2",
        "qwen3",
        "qwen3_moe",
        "seed_oss",
        "smollm3",
        "stablelm",
        "starcoder2",
    ]
)
# Families whose mixers carry a state, with documents in them by models/mixers.py.
HYBRIDS = frozenset(["bamba", "limbeck_llamba"])


@dataclass(frozen=True)
class Head:
    """Hidden states (tokens, width) to logits (tokens, vocab), with the model's own live parameters.

    weight: (rows, width), bias: (rows,) or None, where rows may exceed vocab by padded ids, which are cut.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits (tokens, vocab) of hidden states (tokens, width), in float32 or float64 also of bf16 products."""
        raw = nn.functional.linear(hidden, self.weight, self.bias)
        real = raw if raw.shape[-1] == self.vocab else raw[..., : self.vocab]
        return Finish(self.scale, self.softcap)(real)


def head(model: nn.Module, *, vocab: int | None = None) -> Head:
    """The output head of a causal language model; `vocab` keeps only the first ids, those of the tokenizer."""
    plain = plain_model(model)
    last = plain.get_output_embeddings()
    name = type(plain).__name__
    if not isinstance(last, nn.Linear | NarrowIn):
        raise ModelError(
            f"{name}: its output head is a {type(last).__name__}; wanted a plain linear layer. "
            "Leave lm_head out of the adapter's modules, or load a model for causal language modelling."
        )
    weight: Tensor = last.weight  # of a projected head a product, so it is asked for once
    rows = weight.shape[0]
    if vocab is not None and not 0 < vocab <= rows:
        raise ModelError(
            f"{name}: {vocab:,} ids are wanted, its head has {rows:,}. Use the tokenizer of this model."
        )
    scale, softcap = _finishing(plain.config)
    return Head(weight, last.bias, scale, softcap, vocab or rows)


def plain_model(model: nn.Module) -> PreTrainedModel:
    """The transformers model itself, also from inside a PEFT adapter."""
    inside = getattr(model, "get_base_model", None)
    found = model if inside is None else inside()
    if not isinstance(found, PreTrainedModel):
        raise ModelError(
            f"A {type(found).__name__} was given; wanted a transformers model for causal language modelling."
        )
    return found


def trunk(model: nn.Module) -> nn.Module:
    """The part that gives the last hidden states, after the final norm."""
    plain = plain_model(model)
    found: nn.Module = plain.base_model
    if found is plain:
        raise ModelError(
            f"{type(plain).__name__} has no trunk apart from its head; wanted a ...ForCausalLM class."
        )
    return found


def layers(model: nn.Module) -> nn.ModuleList:
    """The blocks, in order."""
    inner = trunk(model)
    count = plain_model(model).config.get_text_config().num_hidden_layers
    for module in inner.children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise ModelError(f"{type(inner).__name__}: no list of {count} blocks was found in it.")


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the head."""
    inner = trunk(model)
    for name, module in inner.named_children():
        if name in _NORMS:
            return module
    raise ModelError(
        f"{type(inner).__name__}: none of {', '.join(_NORMS)} is in it, so its last norm is unknown."
    )


def hidden(model: nn.Module, batch: Batch) -> Tensor:
    """The last hidden states (tokens, width), each document seeing only itself."""
    found, flat = forward(model, batch)
    return flat(found)


def forward(model: nn.Module, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The trunk's output as it ran, and what makes (tokens, ...) of any (rows, time, ...) inside it.

    Each document sees only itself. Packed rows bring their documents' edges (models/attention.py), or, where a model
    does not run sdpa, neither mask nor cache: with either, transformers 5.23 lets packed documents see one another.
    Families that are not in PACKING get each document as a row of its own, padded on the right.
    """
    inner, found = trunk(model), batch.edges
    packed = found.shape[0] - 1 > batch.document_ids.shape[0]
    if packed and leaks(model):
        return _apart(inner, batch)
    mask = attention.as_mask(found) if packed and attention.switch(plain_model(model)) else None
    if mask is not None and _type(model) in HYBRIDS:
        both = {"full_attention": mask, "linear_attention": mask}
        return _forward(inner, batch.input_ids, batch.position_ids, both), _flat
    return _forward(inner, batch.input_ids, batch.position_ids, mask), _flat


def _flat(tensor: Tensor) -> Tensor:
    return tensor.flatten(0, 1)


def leaks(model: nn.Module) -> bool:
    """Whether packed documents might see one another in the plain forward of this family."""
    if _type(model) in HYBRIDS:
        mixers.with_documents(model)
        return not attention.switch(plain_model(model))
    return _type(model) not in PACKING


def _type(model: nn.Module) -> str:
    return str(plain_model(model).config.get_text_config().model_type)


def takes_positions(inner: nn.Module) -> bool:
    """Whether a trunk can be told where its tokens stand."""
    return "position_ids" in inspect.signature(inner.forward).parameters


def _forward(
    inner: nn.Module,
    input_ids: Tensor,
    position_ids: Tensor,
    mask: Tensor | dict[str, Tensor] | None = None,
) -> Tensor:
    """Hidden states (batch, time, width)."""
    given = {"input_ids": input_ids, "attention_mask": mask}
    if takes_positions(inner):
        given["position_ids"] = position_ids
    output = inner(**given, use_cache=False)
    found: Tensor = output.last_hidden_state
    return found


def _apart(inner: nn.Module, batch: Batch) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Hidden states (documents, longest, width) of documents run one a row, padded where no token looks; see forward.

    One forward, not one a document: under sharding every rank must gather the parameters equally often.
    """
    first = torch.ones_like(batch.document_ids, dtype=torch.bool)
    first[:, 1:] = batch.document_ids[:, 1:] != batch.document_ids[:, :-1]
    start = first.flatten().nonzero().squeeze(-1)  # (documents,)
    row = first.flatten().cumsum(0) - 1  # (tokens,)
    column = torch.arange(row.shape[0], device=row.device) - start[row]
    longest = int(column.max()) + 1
    input_ids = batch.input_ids.new_zeros(start.shape[0], longest)
    input_ids[row, column] = batch.input_ids.flatten()
    ahead = torch.arange(longest, device=row.device)
    positions = batch.position_ids.flatten()[start].unsqueeze(-1) + ahead
    positions = positions.clamp(
        max=batch.position_ids.max()
    )  # padding must not ask for unknown ones
    return _forward(inner, input_ids, positions), lambda tensor: tensor[row, column]


def _finishing(config: Any) -> tuple[float, float | None]:
    """Scale and soft-cap of the logits, by the keys that the families use for them."""
    config = config.get_text_config()
    scale = 1.0
    for key in _FACTORS:
        scale *= _number(config, key) or 1.0
    scaling = _number(config, "logits_scaling")
    if scaling is not None:
        # Granite divides by it; HyperCLOVA X multiplies.
        scale = scale * scaling if config.model_type == "hyperclovax" else scale / scaling
    caps = [cap for cap in (_number(config, key) for key in _CAPS) if cap is not None]
    return scale, caps[0] if caps else None


def _number(config: Any, key: str) -> float | None:
    value = getattr(config, key, None)
    if value is None or isinstance(value, int | float):
        return value
    raise ModelError(
        f"{config.model_type}: {key} is {value!r}; wanted a number. This family's head is not known."
    )
