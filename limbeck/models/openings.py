"""What the mixers of a hybrid begin as: the attention that stood in their place, or a gate and a convolution that do nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from limbeck.errors import RecipeError
from limbeck.models import hybrid, layout, llamba_config
from limbeck.models.mixers import GATE_OPEN, DiscreteMamba2

# Mamba-2's own beginnings (Dao and Gu, 2024): rates of decay, and time steps, even in their logarithm.
_RATES = (1.0, 16.0)
_STEPS = (0.001, 0.1)


def check(
    teacher: PretrainedConfig, shape: hybrid.Shape, start: Literal["attention", "identity"]
) -> None:
    """Refuses a start that these sizes do not allow. Reads configs alone."""
    found = teacher.get_text_config()
    if start == "identity":
        if shape.mixer == "mamba2":
            raise RecipeError(
                "student.hybrid.start: 'identity' found; the mixer mamba2 has a norm and an activation that cannot be "
                "opened. Take start: attention, or mixer: discrete_mamba2."
            )
        return
    wide = getattr(found, "head_dim", None) or found.hidden_size // found.num_attention_heads
    if (shape.heads, shape.state) != (found.num_attention_heads, wide):
        raise RecipeError(
            f"student.hybrid.start: 'attention' needs the attention's own {found.num_attention_heads} heads and a state of "
            f"{wide}; found {shape.heads} and {shape.state}. Leave heads and state out, or take start: identity."
        )


@torch.no_grad()
def from_attention(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Values become what is written, keys where, queries what is read, the output stays (Wang et al., 2024).

    A group's keys and values are repeated for its heads. Products are scaled as in attention, biases go into the
    convolution's, which lets all pass; rotary positions and the softmax have no counterpart.
    """
    blocks: Any = layout.layers(teacher)
    for number, mixer in hybrid.mixers(student).items():
        _from_one(mixer, blocks[number].self_attn)


def _from_one(mixer: Any, attention: Any) -> None:
    dim, heads = attention.head_dim, attention.q_proj.out_features // attention.head_dim
    groups = heads // (attention.k_proj.out_features // dim)

    def each(rows: Tensor) -> Tensor:
        alone = rows.view(-1, dim, *rows.shape[1:])  # a head each
        return alone.repeat_interleave(groups, 0).flatten(0, 1)

    taken = (
        _rows(attention.v_proj, each),
        _rows(attention.k_proj, each),
        _rows(attention.q_proj, lambda rows: rows / math.sqrt(dim)),
    )
    weight = torch.cat([rows for rows, _ in taken])
    discrete = isinstance(mixer, DiscreteMamba2)
    begin = 0 if discrete else mixer.intermediate_size  # Bamba's gate stands first
    mixer.in_proj.weight[begin : begin + weight.shape[0]] = weight
    _pass_through(mixer.conv1d)
    mixer.conv1d.bias.copy_(torch.cat([bias for _, bias in taken]))
    mixer.D.zero_()
    mixer.out_proj.weight.copy_(attention.o_proj.weight)
    if discrete:
        _open(mixer)
    else:
        _timed(mixer)


def _rows(linear: nn.Linear, arranged: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Weight (out, width) and bias (out,) of a projection, arranged for the mixer's heads."""
    bias = linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return arranged(linear.weight), arranged(bias)


@torch.no_grad()
def identity(student: PreTrainedModel) -> None:
    """Gates at one, convolutions that return what they are given; the rest is random (Bick et al., 2024)."""
    for mixer in hybrid.mixers(student).values():
        assert isinstance(mixer, DiscreteMamba2)
        _pass_through(mixer.conv1d)
        _open(mixer)


def sizes(
    donor: PreTrainedModel, mixer: hybrid.Mixer, teacher: PretrainedConfig, kept: Sequence[int]
) -> dict[str, int | None]:
    """Heads and state of a model's mixers. Refuses one whose mixers the hybrid of this teacher has not. Reads configs alone."""
    mine, found = teacher.get_text_config(), donor.config
    model = "bamba" if mixer == "mamba2" else llamba_config.LimbeckLlambaConfig.model_type
    wanted: dict[str, Any] = {"model_type": model, "num_hidden_layers": mine.num_hidden_layers}
    if found.model_type == model:
        wanted |= {"hidden_size": mine.hidden_size, "mamba_n_groups": found.mamba_n_heads}
        wanted |= {"mamba_d_conv": hybrid.KERNEL, "mamba_expand": 1}
        wanted |= {"mamba_conv_bias": True, "mamba_proj_bias": False}
    other = {key: value for key, value in wanted.items() if getattr(found, key) != value}
    if other:
        there = ", ".join(f"{key} {getattr(found, key)}" for key in other)
        here = ", ".join(f"{key} {value}" for key, value in other.items())
        raise RecipeError(
            f"student.hybrid.mixers_of: {there} found; wanted {here}: a hybrid with mixers {mixer} of this teacher's size."
        )
    for number, kind in enumerate(found.layers_block_type):
        if kind != "linear_attention" and number not in kept:
            raise RecipeError(
                f"student.hybrid.mixers_of: block {number} has attention there; keep it here too, or take another model."
            )
    return {"heads": found.mamba_n_heads, "state": found.mamba_d_state}


@torch.no_grad()
def of_another(student: PreTrainedModel, donor: PreTrainedModel) -> None:
    """Copies the mixers of another hybrid, which `sizes` has looked at."""
    theirs = hybrid.mixers(donor)
    for number, mixer in hybrid.mixers(student).items():
        mixer.load_state_dict(theirs[number].state_dict())


def _pass_through(convolution: nn.Conv1d) -> None:
    """Each channel is its own last token."""
    convolution.weight.zero_()
    convolution.weight[..., -1] = 1
    assert convolution.bias is not None
    convolution.bias.zero_()


def _open(mixer: DiscreteMamba2) -> None:
    mixer.in_proj.weight[mixer.channels : mixer.channels + mixer.inner] = 0
    mixer.z_bias.fill_(GATE_OPEN)


def _timed(mixer: Any) -> None:
    """Rates and time steps spread over the heads as in Mamba-2, by no chance: horizons from under a token to a thousand."""
    share = torch.linspace(0, 1, mixer.num_heads, dtype=torch.float64)
    rates = _RATES[1] + (_RATES[0] - _RATES[1]) * share
    steps = torch.exp(math.log(_STEPS[1]) + (math.log(_STEPS[0]) - math.log(_STEPS[1])) * share)
    mixer.A_log.copy_(rates.log())
    mixer.dt_bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus of it is the step
