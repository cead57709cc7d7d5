"""Attention inside documents: each packed document is its own causal attention, and no (time, time) mask exists.

Transformers hands a 4-D attention_mask to its attention functions as it is, in every family. So the places where
documents begin travel there, as integers, which no mask of its own ever is: each forward brings its own, also when
activation checkpointing runs a block again. Without them the function here is transformers' sdpa, unchanged.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "limbeck_documents"
# What changes the scores themselves: these go through transformers' own function, with a mask.
_OTHERS = ("softcap", "position_bias", "s_aux", "cache")
# Whether PyTorch wants to be told that heads share keys and values: 2.11 takes them as they come.
_ASKS_GROUPS = "enable_gqa" in inspect.signature(varlen_attn).parameters


Watch = Callable[[Tensor, Tensor, Tensor, float | None], None]
"""Is told query, key, value, each (batch, heads, time, width), and the scale of products; None is width^-0.5."""
_WATCH = "limbeck_watch"


@dataclass(frozen=True)
class _How:
    """What a family asks of its attention. window: how many tokens one sees, itself included."""

    scale: float | None
    window: int | None
    dropout: float


def offered(config: PretrainedConfig) -> str:
    """The attention that a family is loaded with: sdpa where transformers has it for the family, else eager."""
    found = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), ())
    each = found if isinstance(found, tuple) else (found,)  # several stand for some configs
    return "sdpa" if all(one._supports_sdpa for one in each) else "eager"


def switch(model: PreTrainedModel) -> bool:
    """Lets a model that runs sdpa take documents' edges instead of a mask; whether it does now.

    The setting is of this process: transformers leaves it out of config.json.
    """
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, documents_attention)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                module.config._attn_implementation = NAME
    return bool(model.config._attn_implementation == NAME)


@contextlib.contextmanager
def watched(module: nn.Module, watch: Watch) -> Iterator[None]:
    """Tells `watch` what enters the attention of this module, while the block runs."""
    watchers = vars(module).setdefault(_WATCH, [])
    watchers.append(watch)
    try:
        yield
    finally:
        watchers.remove(watch)


def as_mask(found: Tensor) -> Tensor:
    """Edges (documents + 1,) in the form that travels as attention_mask: (1, 1, 1, documents + 1)."""
    return found.view(1, 1, 1, -1)


def documents_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of each document alone; without edges, transformers' sdpa.

    query, key, value: (batch, heads, time, width), fewer heads in the last two where they are grouped. Returns
    (batch, time, heads, width).
    """
    for watch in vars(module).get(_WATCH, ()):
        watch(query, key, value, options.get("scaling"))
    if attention_mask is None or attention_mask.dtype != torch.int32:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    found = attention_mask.flatten()
    how = _How(options.get("scaling"), options.get("sliding_window"), options.get("dropout", 0.0))
    if any(options.get(name) is not None for name in _OTHERS):
        mask = dense(found, query.shape[0], query.shape[2], how.window)
        return sdpa_attention_forward(module, query, key, value, mask, **options)  # type: ignore[no-any-return]
    if _fused(query, how):
        return _on_device(query, key, value, found, how), None
    return _each(query, key, value, found, how), None


def dense(found: Tensor, batch: int, time: int, window: int | None = None) -> Tensor:
    """The mask that the edges stand for: bool (batch, 1, time, time), true where a token may look."""
    places = torch.arange(batch * time, device=found.device).view(batch, time)
    document = torch.searchsorted(found, places, right=True)
    alike = document.unsqueeze(-1) == document.unsqueeze(-2)
    return (alike & _band(time, window, found.device)).unsqueeze(1)


def _band(time: int, window: int | None, device: torch.device) -> Tensor:
    """Causal, and no further back than the window, which counts the token itself: bool (time, time)."""
    seen = torch.ones(time, time, dtype=torch.bool, device=device).tril()
    return seen if window is None else seen.triu(1 - window)


def _fused(query: Tensor, how: _How) -> bool:
    width = query.shape[-1]
    narrow = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and narrow and not how.dropout and width % 8 == 0 and width <= 256


def _on_device(query: Tensor, key: Tensor, value: Tensor, found: Tensor, how: _How) -> Tensor:
    """One kernel for all documents: (batch, time, heads, width)."""
    batch, heads, time, _ = query.shape
    shared = key.shape[1] != heads
    groups: dict[str, Any] = {"enable_gqa": shared} if _ASKS_GROUPS else {}
    output = varlen_attn(
        _flat(query),
        _flat(key),
        _flat(value),
        found,
        found,
        time,  # the longest that a document can be, so that no number is waited for
        time,
        scale=how.scale,
        window_size=(-1 if how.window is None else how.window - 1, 0),
        **groups,
    )
    assert isinstance(output, Tensor)  # nothing else was asked for
    return output.view(batch, time, *output.shape[1:])


def _repeated(part: Tensor, heads: int) -> Tensor:
    """Keys or values with a head for each query head: (batch, kv heads, time, width) -> (batch, heads, time, width)."""
    groups = heads // part.shape[1]
    return part if groups == 1 else part.repeat_interleave(groups, 1)


def _flat(part: Tensor) -> Tensor:
    """(batch, heads, time, width) -> (tokens, heads, width)."""
    return part.transpose(1, 2).flatten(0, 1)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _each(query: Tensor, key: Tensor, value: Tensor, found: Tensor, how: _How) -> Tensor:
    """One call a document: (batch, time, heads, width)."""
    batch, heads, time, _ = query.shape
    key, value = _repeated(key, heads), _repeated(value, heads)
    # Split and not sliced: the gradient of a slice is as large as the whole, once for every document.
    lengths: list[list[int]] = [[] for _ in range(batch)]
    for begin, end in itertools.pairwise(found.tolist()):
        lengths[begin // time].append(end - begin)
    rows = []
    alone = zip(*(torch.split(part, 1) for part in (query, key, value)), strict=True)
    for one, (q, k, v) in zip(lengths, alone, strict=True):
        pieces = zip(*(torch.split(part, one, 2) for part in (q, k, v)), strict=True)
        rows += [_one(q, k, v, how) for q, k, v in pieces]
    return torch.cat(rows, 1).view(batch, time, heads, -1)


def _one(query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
    """Causal attention of one document: (1, heads, some, width) -> (1, some, heads, width)."""
    time = query.shape[2]
    cut = how.window is not None and time > how.window
    output = functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=_band(time, how.window, query.device) if cut else None,
        dropout_p=how.dropout,
        is_causal=not cut,
        scale=how.scale,
    )
    return output.transpose(1, 2)
