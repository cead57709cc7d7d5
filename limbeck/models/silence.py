"""The attentions of a model, and what it is without some of their heads, whose columns of o_proj then read zeros."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout


@dataclass(frozen=True)
class Attention:
    """The attention of a block. heads: query heads, each `width` columns of what enters `output`, its o_proj."""

    block: int
    heads: int
    width: int
    output: nn.Module


def attentions(model: PreTrainedModel) -> list[Attention]:
    """The attentions of a model in the order of its blocks; blocks that mix tokens otherwise have none."""
    found = []
    for number, block in enumerate(layout.layers(model)):
        mixer = getattr(block, "self_attn", None)
        if mixer is not None:
            found.append(_attention(model, number, mixer))
    if not found:
        raise ModelError(
            f"{type(layout.plain_model(model)).__name__}: none of its {len(layout.layers(model))} blocks has a "
            "'self_attn'; wanted attention as in Llama, Mistral, Qwen, SmolLM3 or Gemma. Choose such a model."
        )
    return found


def _attention(model: PreTrainedModel, number: int, mixer: nn.Module) -> Attention:
    output = getattr(mixer, "o_proj", None)
    columns = getattr(output, "in_features", None)
    config = layout.plain_model(model).config.get_text_config()
    heads = int(config.num_attention_heads)
    width = getattr(mixer, "head_dim", None) or (columns or 0) // heads
    if output is None or not columns or not width or columns % width:
        raise ModelError(
            f"{type(mixer).__name__} in block {number}: o_proj found is {type(output).__name__} of "
            f"{columns or 'unknown'} columns, heads are {width or 'unknown'} wide; wanted a linear o_proj that reads "
            "whole heads, as in Llama, Mistral, Qwen, SmolLM3 or Gemma. Choose such a model."
        )
    return Attention(number, columns // width, width, output)


@contextlib.contextmanager
def silenced(attention: Attention, heads: Sequence[int]) -> Iterator[None]:
    """While the block runs, o_proj reads zeros from these heads; no weight is touched.

    Without all of them the block's attention adds nothing but a bias of o_proj, where it has one.
    """
    out = [head for head in heads if not 0 <= head < attention.heads]
    if out:
        raise ModelError(
            f"head {out[0]} of block {attention.block} is wanted; its attention has heads 0 to {attention.heads - 1}."
        )
    wanted = torch.tensor(list(heads), dtype=torch.int64)
    silent = torch.zeros(attention.heads, dtype=torch.bool)
    silent[wanted] = True
    columns = silent.repeat_interleave(attention.width)  # (heads x width,)

    def hook(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        entering: Tensor = given[0]  # (batch, time, heads x width)
        return entering.masked_fill(columns.to(entering.device), 0.0), *given[1:]

    handle = attention.output.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()
