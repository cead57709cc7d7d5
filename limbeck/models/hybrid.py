"""Hybrids: a teacher's blocks with attention in some of them and a mixer that carries a state in the others.

With the mixer `mamba2` a hybrid is a plain BambaForCausalLM of transformers; with `discrete_mamba2` it is Llamba's,
as a model of ours that transformers' Auto classes know once `limbeck` is imported.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    BambaConfig,
    BambaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import (
    initialization as init,
)
from transformers.models.bamba.modeling_bamba import BambaModel

from limbeck.errors import ModelError, RecipeError
from limbeck.models import place, remembering
from limbeck.models.llamba_config import LimbeckLlambaConfig
from limbeck.models.mixers import DiscreteMamba2, with_documents

Mixer = Literal["mamba2", "discrete_mamba2"]
FAMILIES = ("llama", "mistral", "qwen2")
"""Whose blocks a hybrid can be made of: RMSNorm, rotary positions on whole heads, SwiGLU."""
KERNEL = 4
"""Tokens that the convolution of a mixer sees."""


class LimbeckLlambaModel(BambaModel):  # type: ignore[misc]
    """Bamba's trunk with Llamba's mixer in every block that has no attention."""

    config_class = LimbeckLlambaConfig

    def __init__(self, config: LimbeckLlambaConfig) -> None:
        super().__init__(config)
        for number, layer in enumerate(self.layers):
            if config.layers_block_type[number] == "linear_attention":
                layer.mamba = DiscreteMamba2(config, number)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        *,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Any:
        """As Bamba's, with a cache where no block has an attention, and positions that go on from a cache."""
        wanted = self.config.use_cache if use_cache is None else use_cache
        if wanted and past_key_values is None:
            past_key_values = remembering.begun(self)
        given = others.get("inputs_embeds") if input_ids is None else input_ids
        if position_ids is None and past_key_values is not None and given is not None:
            begin = past_key_values.get_seq_length()
            places = torch.arange(begin, begin + given.shape[1], device=given.device)
            position_ids = places.unsqueeze(0)
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **others,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LimbeckLlambaModel:
        """Moves and casts all but the frequencies of rotary positions, which are moved only: bfloat16 would bend them."""
        before = dict(self.rotary_emb.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            now = self.rotary_emb.get_buffer(name)
            if now.dtype != buffer.dtype:
                setattr(self.rotary_emb, name, buffer.to(now.device))
        return self

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _begin(module)


class LimbeckLlambaForCausalLM(BambaForCausalLM):  # type: ignore[misc]
    """A hybrid with Llamba's mixer, and a head."""

    config_class = LimbeckLlambaConfig

    def __init__(self, config: LimbeckLlambaConfig) -> None:
        super(BambaForCausalLM, self).__init__(config)  # whose own would build a whole Bamba first
        self.model = LimbeckLlambaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.z_loss_coefficient = config.z_loss_coefficient
        self.post_init()

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *others: Any
    ) -> None:
        named = generation_config.cache_implementation is not None
        if not named and generation_config.use_cache is not False:
            model_kwargs.setdefault("past_key_values", remembering.begun(self))
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *others)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        _begin(module)


def _begin(module: nn.Module) -> None:
    """Fills what a new mixer has besides its linear layers, by transformers' functions, which leave loaded ones alone."""
    if isinstance(module, DiscreteMamba2):
        init.zeros_(module.z_bias)
        init.ones_(module.D)


@dataclass(frozen=True)
class Shape:
    """What a hybrid is told. kept: blocks that keep their attention. heads, head_dim, state: of a mixer."""

    mixer: Mixer
    kept: tuple[int, ...]
    heads: int
    head_dim: int
    state: int
    chunk: int = 128


def check(config: PretrainedConfig, mixer: Mixer) -> None:
    """Refuses a teacher whose blocks no hybrid has. Reads its config alone."""
    found = config.get_text_config()
    reasons = []
    if found.model_type not in FAMILIES:
        reasons.append(f"its family is {found.model_type}; wanted one of {', '.join(FAMILIES)}")
    if getattr(found, "hidden_act", "silu") != "silu":
        reasons.append(f"its MLP has the activation {found.hidden_act}; wanted silu")
    if getattr(found, "sliding_window", None) and getattr(found, "use_sliding_window", True):
        reasons.append(f"its attention sees {found.sliding_window} tokens; wanted all before")
    wide = found.num_attention_heads * _head_dim(found)
    if not reasons and wide != found.hidden_size:
        reasons.append(
            f"its heads have {wide} channels together; wanted the stream's {found.hidden_size}"
        )
    if reasons:
        raise ModelError(
            f"student.hybrid ({mixer}): the teacher cannot become one: {'; '.join(reasons)}. Choose another teacher."
        )


def _head_dim(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def shape_of(
    config: PretrainedConfig,
    mixer: Mixer,
    kept: Sequence[int],
    *,
    heads: int | None = None,
    state: int | None = None,
) -> Shape:
    """The shape of a hybrid whose mixers have as many heads as the teacher's attention, or `heads`."""
    found = config.get_text_config()
    count = heads or found.num_attention_heads
    if found.hidden_size % count:
        raise RecipeError(
            f"student.hybrid.heads: {count} found; wanted a divisor of the stream's {found.hidden_size} channels."
        )
    return Shape(mixer, tuple(kept), count, found.hidden_size // count, state or _head_dim(found))


def config_of(teacher: PretrainedConfig, shape: Shape) -> BambaConfig:
    """The config of a hybrid: the teacher's sizes, rotary positions and ties, kinds of blocks, sizes of mixers."""
    found: Any = teacher.get_text_config()
    kind = BambaConfig if shape.mixer == "mamba2" else LimbeckLlambaConfig
    made = kind(
        vocab_size=found.vocab_size,
        tie_word_embeddings=found.tie_word_embeddings,
        hidden_size=found.hidden_size,
        intermediate_size=found.intermediate_size,
        num_hidden_layers=found.num_hidden_layers,
        num_attention_heads=found.num_attention_heads,
        num_key_value_heads=found.num_key_value_heads,
        initializer_range=found.initializer_range,
        rms_norm_eps=found.rms_norm_eps,
        num_logits_to_keep=1,
        pad_token_id=found.pad_token_id,
        bos_token_id=found.bos_token_id,
        eos_token_id=found.eos_token_id,
        max_position_embeddings=found.max_position_embeddings,
        attention_dropout=getattr(found, "attention_dropout", 0.0),
        attn_layer_indices=list(shape.kept),
        mamba_n_heads=shape.heads,
        mamba_d_head=shape.head_dim,
        mamba_n_groups=shape.heads,
        mamba_d_state=shape.state,
        mamba_d_conv=KERNEL,
        mamba_expand=1,
        mamba_chunk_size=shape.chunk,
        rope_parameters=dict(found.rope_parameters) | {"partial_rotary_factor": 1.0},
        attention_bias=_has_bias(found),
        mlp_bias=bool(getattr(found, "mlp_bias", False)),
    )
    made.head_dim = _head_dim(found)
    if kind is BambaConfig and remembering.stateful_alone(made):
        # transformers' own cache fails where no block has an attention; without it, it is slow and right.
        made.use_cache = False
    return made


def _has_bias(config: Any) -> bool:
    """Whether queries, keys and values have biases."""
    return config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False))


def transferred(teacher: PreTrainedModel, shape: Shape) -> PreTrainedModel:
    """A hybrid with copies of all that both have: embeddings, norms, MLPs, kept attentions, head. Shares no storage.

    Mixers are as their own initialisation left them. On the meta device, if the teacher is there.
    """
    first = next(teacher.parameters())
    config = config_of(teacher.config, shape)
    kind = BambaForCausalLM if shape.mixer == "mamba2" else LimbeckLlambaForCausalLM
    with torch.device(first.device):
        made: PreTrainedModel = place.cast(kind(config), first.dtype)
    with_documents(made)
    made.generation_config = copy.deepcopy(teacher.generation_config)
    made.generation_config.use_cache = config.use_cache
    if not first.is_meta:
        _fill(made, teacher)
    return made.eval()


def renamed(name: str) -> str:
    """The place in a hybrid of a tensor of a Llama-like teacher."""
    name = name.replace(".post_attention_layernorm.", ".pre_ff_layernorm.")
    name = name.replace(".mlp.", ".feed_forward.")
    return "model.final_layernorm.weight" if name == "model.norm.weight" else name


@torch.no_grad()
def _fill(made: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Copies what both have, bit by bit; refuses to leave anything of a hybrid but mixers without it."""
    there = made.state_dict()
    left = {name for name in there if ".mamba." not in name}
    for name, tensor in teacher.state_dict().items():
        new = renamed(name)
        if new in there:
            there[new].copy_(tensor)
            left.discard(new)
    for name in sorted(left):
        if not name.endswith("o_proj.bias"):  # which qwen2 has not, and Bamba has with the others
            raise ModelError(f"student.hybrid: the teacher has nothing for {name} of the hybrid.")
        there[name].zero_()


def mixers(model: nn.Module) -> dict[int, nn.Module]:
    """The mixers of a hybrid, by the number of their block."""
    blocks: Any = model.get_submodule("model.layers")
    return {n: layer.mamba for n, layer in enumerate(blocks) if "mamba" in layer._modules}
