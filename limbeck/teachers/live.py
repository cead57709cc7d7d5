"""A teacher that runs beside the student: any causal language model, frozen; gives hidden (tokens, width) and a head."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import PreTrainedModel

from limbeck.errors import ModelError
from limbeck.models import layout, load, place
from limbeck.types import Batch, Signal, Wanted


class Live:
    """Serves a model that is loaded. `vocab` keeps only the first ids, where the model's head is padded.

    With several ranks the trunk is sharded over them (FSDP2), so each rank must ask equally often. The head stays
    whole on every rank: the objectives read it in chunks all through the step, so gathering it would save nothing.
    """

    def __init__(self, model: PreTrainedModel, *, vocab: int | None = None, name: str = "") -> None:
        self.name = name or str(model.name_or_path)
        self.model = model.eval().requires_grad_(False)
        self.vocab = vocab
        layout.head(model, vocab=vocab)  # refuses now what would fail in the first step
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            _shard(self.model)

    @torch.no_grad()
    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """Hidden states (counted, width) and the head that makes logits (counted, vocab) of them."""
        if wanted.features:
            raise ModelError(
                f"teacher.live {self.name}: features at {', '.join(wanted.features)} are wanted; "
                "it gives its distribution only."
            )
        if not wanted.distribution:
            return Signal()
        hidden = layout.hidden(self.model, batch)
        if hidden.shape[0] != batch.input_ids.numel():
            raise ModelError(
                f"teacher.live {self.name}: {hidden.shape[0]:,} hidden states for "
                f"{batch.input_ids.numel():,} tokens."
            )
        return Signal(hidden=batch.pick(hidden), head=layout.head(self.model, vocab=self.vocab))


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
