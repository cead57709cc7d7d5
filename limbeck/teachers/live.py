"""A teacher that runs beside the student: any causal language model, frozen; gives hidden (tokens, width) and a head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout, load, place, taps
from limbeck.types import Batch, Signal, Wanted


class Live:
    """Serves a model that is loaded. `vocab` keeps only the first ids, where the model's head is padded.

    With several ranks the trunk is sharded over them (FSDP2), so each rank must ask equally often. The head stays
    whole on every rank: the objectives read it in chunks all through the step, so gathering it would save nothing.
    On a device of its own it hands hidden states over to that of the batch, where a copy of the head stays.
    """

    def __init__(self, model: PreTrainedModel, *, vocab: int | None = None, name: str = "") -> None:
        self.name = name or str(model.name_or_path)
        self.model = model.eval().requires_grad_(False)
        self.vocab = vocab
        self._elsewhere: dict[torch.device, layout.Head] = {}
        layout.head(model, vocab=vocab)  # refuses now what would fail in the first step
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            _shard(self.model)

    def compile(self) -> None:
        """Compiles each block from its first forward on: seconds then, less time after; other last bits."""
        place.compile_blocks(layout.layers(self.model), f"teacher {self.name}", dynamic=True)

    @torch.no_grad()
    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """Hidden states (counted, width) with the head that makes logits of them, and what the taps show."""
        if not (wanted.distribution or wanted.features or wanted.heads):
            return Signal()
        asked = batch.input_ids.device
        here = batch.to(self.model.device)
        hidden, features, heads = taps.signal(self.model, here, wanted)
        if hidden.shape[0] != batch.input_ids.numel():
            raise ModelError(
                f"teacher.live {self.name}: {hidden.shape[0]:,} hidden states for "
                f"{batch.input_ids.numel():,} tokens."
            )
        inside = Signal(
            # What enters a block is fed to another, which needs all tokens.
            features={
                tap: vectors if tap.endswith(f".{taps.ENTERING}") else here.pick(vectors)
                for tap, vectors in features.items()
            },
            heads=heads,
        ).to(asked)
        if not wanted.distribution:
            return inside
        said = here.pick(hidden).to(asked, non_blocking=True)
        return replace(inside, hidden=said, head=self._head(asked))

    def _head(self, device: torch.device) -> layout.Head:
        """The head on the student's device: the model's own, or a copy that is made once."""
        own = layout.head(self.model, vocab=self.vocab)
        if own.weight.device == device:
            return own
        if device not in self._elsewhere:
            bias = None if own.bias is None else own.bias.to(device)
            self._elsewhere[device] = replace(own, weight=own.weight.to(device), bias=bias)
        return self._elsewhere[device]


def _shard(model: PreTrainedModel) -> None:
    """Shards blocks and trunk over all ranks; parameters are gathered for a forward and freed after it."""
    device: Any = model.device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for layer in layout.layers(model):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(layout.trunk(model), mesh=mesh, reshard_after_forward=True)


def live(
    *,
    model: str,
    revision: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto",
    device: str = "auto",
    vocab: int | None = None,
) -> Live:
    """The model of this name, ready to be asked: hidden (tokens, width) and a head of `vocab` ids."""
    where = place.device_of(device)
    numbers = place.dtype_of(dtype, where)
    loaded = load.load_model(model, revision=revision, dtype=numbers)
    return Live(loaded.to(where), vocab=vocab, name=model)
