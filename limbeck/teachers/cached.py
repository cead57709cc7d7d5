"""A teacher whose answers were recorded: reads what was kept of each token by the content of its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from limbeck.cache.format import chosen, read_about, tokens_digest
from limbeck.cache.head import head_digest, read_head
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.models.layout import Head
from limbeck.models.load import fingerprint
from limbeck.types import Batch, HeadLike, HeadMean, Sampled, Signal, TopK, Wanted


class Cached:
    """Serves a cache. The order of rows, the batch size and the number of epochs do not matter to it."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader
        self._head: Head | None = None
        if reader.about.kind == "hidden8":
            head = read_head(reader.path, reader.about.head)
            self._head = Head(head.weight, head.bias, head.scale, head.softcap, head.vocab)

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """What was kept of each token that counts: TopK or Sampled, HeadMean (counted, width), or hidden states.

        Rows of a later epoch take another draw, where several were kept.
        """
        if wanted.features:
            raise RecipeError(
                f"teacher.cached: features at {', '.join(wanted.features)} are wanted, a cache holds "
                "what the teacher says of tokens only. Use teacher.live for objectives that read features."
            )
        if not wanted.distribution:
            return Signal()
        self._check(batch)
        epochs = batch.epochs or (0,) * len(batch.addresses)
        draws = [epoch % self.reader.about.draws for epoch in epochs]
        said = self.reader.read(batch.addresses, batch.weights.cpu() != 0, draws)
        device = batch.input_ids.device
        match said:
            case TopK():
                return Signal(topk=said.to(device))
            case Sampled():
                return Signal(sampled=said.to(device))
            case HeadMean():
                return Signal(mean=said.to(device))
            case Tensor():
                head = self._head_on(device)
                return Signal(hidden=said.to(device, head.weight.dtype), head=head)

    def check_head(self, head: HeadLike) -> None:
        """Refuses a student's head that is not the one whose mean rows were recorded; other kinds serve any head."""
        about = self.reader.about
        if about.kind == "kl-vector" and head_digest(head) != about.head:
            raise CacheMismatch(
                f"{self.reader.path}: recorded for a student with another output head ({about.head[:12]}), or for "
                f"compute.dtype other than {str(head.weight.dtype).removeprefix('torch.')}. Record again with "
                "'limbeck record', or take the student that it was recorded for."
            )

    def _head_on(self, device: torch.device) -> Head:
        """The head of hidden states, moved once."""
        assert self._head is not None
        if self._head.weight.device != device:
            bias = None if self._head.bias is None else self._head.bias.to(device)
            self._head = replace(self._head, weight=self._head.weight.to(device), bias=bias)
        return self._head

    def _check(self, batch: Batch) -> None:
        """Refuses a batch that holds other tokens than its rows were recorded for."""
        length = batch.input_ids.shape[1]
        if length != self.reader.about.length:
            raise CacheMismatch(
                f"{self.reader.path}: recorded with length {self.reader.about.length}, this batch has "
                f"length {length}. Record again with 'limbeck record', or correct the source's length."
            )
        self.reader.check_holds(batch.addresses)
        rows = zip(batch.addresses, batch.input_ids.cpu(), batch.position_ids.cpu(), strict=True)
        for address, ids, positions in rows:
            found, recorded = tokens_digest(ids, positions), self.reader.tokens(address)
            if found != recorded:
                raise CacheMismatch(
                    f"{self.reader.path}: row {address} was recorded for other tokens than this batch "
                    f"holds: {recorded} recorded, {found} here. "
                    "Record again with 'limbeck record', or correct teacher.cached.path."
                )


def cached(
    *,
    path: str,
    model: str | None = None,
    revision: str | None = None,
    kind: Literal["sample", "rs", "topk+rest", "hidden8", "kl-vector"] = "sample",
    threshold: float = 0.02,
    draws: int = 1,
    samples: int = 50,
    k: int = 64,
    values: Literal["code8", "float16", "float32", "float64"] = "code8",
    vocab: int | None = None,
    tokenizer: str | None = None,
) -> Cached:
    """The teacher recorded at `path`, serving tokens (tokens, ...). `model` is what it must have been recorded from.

    kind: what is kept of a token. `sample`: ids of at least the probability `threshold`, and `draws` draws of the
    others, one an epoch; 48 to 57 bytes on WikiText-2. `rs`: ids that `samples` draws hit. `topk+rest`: the `k` likeliest and the mass of
    the others, for reverse KL, temperatures and other divergences. `hidden8`: hidden states in int8. `kl-vector`: for
    forward KL into a student whose head is frozen. values: how numbers of `topk+rest` and `kl-vector` are kept:
    one byte each, or exactly.

    vocab and tokenizer (a fingerprint) are the run's own; where they are given they are checked too.
    """
    found = read_about(Path(path))
    ids = found.vocab if vocab is None else vocab
    settings = {
        "kind": kind,
        "threshold": threshold,
        "draws": draws,
        "samples": samples,
        "k": k,
        "values": values,
    }
    wanted = replace(
        found,
        teacher=found.teacher if model is None else fingerprint(model, revision),
        tokenizer=found.tokenizer if tokenizer is None else tokenizer,
        vocab=ids,
        **chosen(settings, found, vocab=ids),
    )
    return Cached(CacheReader(path, wanted))
