"""A teacher whose answers were recorded: reads what was kept of each token by the content of its row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from limbeck.cache.format import (
    ABOUT,
    FEATURES,
    CacheAbout,
    check_same,
    chosen,
    read_about,
    tokens_digest,
)
from limbeck.cache.head import head_digest, read_head
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.models.layout import Head
from limbeck.models.load import fingerprint
from limbeck.sampling.scorer import Scores
from limbeck.types import Batch, HeadLike, HeadMean, Sampled, Signal, TopK, Wanted

Kept = tuple[float, str, int | None]


class Cached:
    """Serves a cache. The order of rows, the batch size and the number of epochs do not matter to it."""

    def __init__(self, reader: CacheReader, kept: Kept = (1.0, "bfloat16", None)) -> None:
        """kept: what features must have been recorded with: share, numbers, and width or None for all channels."""
        self.reader = reader
        self._kept = kept
        self._taps: dict[str, CacheReader] = {}
        self._head: Head | None = None
        if reader.about.kind == "hidden8":
            head = read_head(reader.path, reader.about.head)
            self._head = Head(head.weight, head.bias, head.scale, head.softcap, head.vocab)

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """What was kept of each token that counts: TopK or Sampled, HeadMean (counted, width), or hidden states.

        Rows of a later epoch take another draw, where several were kept.
        """
        if wanted.heads:
            raise RecipeError(
                f"teacher.cached: attention at {', '.join(wanted.heads)} is wanted, which no cache keeps. "
                "Use teacher.live."
            )
        if not (wanted.distribution or wanted.features):
            return Signal()
        self._check(batch)
        inside = self._inside(batch, wanted.features)
        if not wanted.distribution:
            return inside
        epochs = batch.epochs or (0,) * len(batch.addresses)
        draws = [epoch % self.reader.about.draws for epoch in epochs]
        said = self.reader.read(batch.addresses, batch.on_cpu.weights != 0, draws)
        device = batch.input_ids.device
        match said:
            case TopK():
                return replace(inside, topk=said.to(device))
            case Sampled():
                return replace(inside, sampled=said.to(device))
            case HeadMean():
                return replace(inside, mean=said.to(device))
            case Tensor():
                head = self._head_on(device)
                return replace(inside, hidden=said.to(device, head.weight.dtype), head=head)

    def _inside(self, batch: Batch, taps: tuple[str, ...]) -> Signal:
        """What was kept at these taps of tokens that count; where all of them are held, nobody is told which."""
        if not taps:
            return Signal()
        readers = {tap: self._at(tap) for tap in taps}
        counted = batch.on_cpu.weights != 0
        held = counted.clone()
        for reader in readers.values():
            for address in batch.addresses:
                self._check_tokens(reader, address, self.reader.tokens(address))
            pairs = zip(batch.addresses, counted, strict=True)
            held &= torch.stack([reader.recorded(*pair) for pair in pairs])
        for address, many, few in zip(batch.addresses, counted.sum(-1), held.sum(-1), strict=True):
            # Of a share that was drawn while more counted, those that still count are as good a draw.
            if few < (many if self._kept[0] == 1 else min(many, 1)):
                raise CacheMismatch(
                    f"{self.reader.path}: row {address} counts {int(many)} tokens; of {int(few)} of them features were "
                    f"recorded at {', '.join(taps)}: what counts changed since. Run 'limbeck record' with this recipe; "
                    "where that adds nothing, a larger teacher.cached.feature_share does."
                )
        device, none = batch.input_ids.device, [0] * len(batch.addresses)
        features = {
            tap: cast(Tensor, reader.read(batch.addresses, held, none)).to(device)
            for tap, reader in readers.items()
        }
        places = held[counted].nonzero().squeeze(-1)
        every = places.numel() == int(counted.sum())
        return Signal(features=features, held=None if every else places.to(device))

    def _at(self, tap: str) -> CacheReader:
        """The cache of a tap, opened once."""
        if tap not in self._taps:
            path = self.reader.path / FEATURES / tap
            if not (path / ABOUT).is_file():
                raise CacheMismatch(
                    f"{self.reader.path}: nothing was recorded at {tap}. Run 'limbeck record' with this recipe; it adds "
                    "what is missing."
                )
            found = CacheReader(path)
            check_same(path, found.about, self._wanted(found.about, tap))
            self._taps[tap] = found
        return self._taps[tap]

    def _wanted(self, found: CacheAbout, tap: str) -> CacheAbout:
        """What the cache of a tap must say, for this recipe's teacher."""
        mine, (share, numbers, width) = self.reader.about, self._kept
        same = {name: getattr(mine, name) for name in ("teacher", "tokenizer", "vocab", "length")}
        width = found.channels if width is None else width
        return replace(found, **same, tap=tap, share=share, numbers=numbers, width=width)

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
        here = batch.on_cpu
        rows = zip(batch.addresses, here.input_ids, here.position_ids, strict=True)
        for address, ids, positions in rows:
            self._check_tokens(self.reader, address, tokens_digest(ids, positions))

    def _check_tokens(self, reader: CacheReader, address: str, found: str) -> None:
        recorded = reader.tokens(address)
        if found != recorded:
            raise CacheMismatch(
                f"{reader.path}: row {address} was recorded for other tokens than this batch "
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
    feature_share: Annotated[float, Field(gt=0, le=1)] = 1.0,
    feature_numbers: Literal["bfloat16", "int8", "float32"] = "bfloat16",
    feature_width: Annotated[int, Field(gt=0)] | None = None,
    vocab: int | None = None,
    tokenizer: str | None = None,
    server: Scores | None = None,
) -> Cached:
    """The teacher recorded at `path`, serving tokens (tokens, ...). `model` is what it must have been recorded from;
    or `server`, spelled as that of teacher.remote, of which `kind: topk+rest` is recorded with as many ids as it tells.

    kind: what is kept of a token. `sample`: ids of at least the probability `threshold`, and `draws` draws of the
    others, one an epoch; 48 to 57 bytes on WikiText-2. `rs`: ids that `samples` draws hit. `topk+rest`: the `k` likeliest and the mass of
    the others, for reverse KL, temperatures and other divergences. `hidden8`: hidden states in int8. `kl-vector`: for
    forward KL into a student whose head is frozen. values: how numbers of `topk+rest` and `kl-vector` are kept:
    one byte each, or exactly. feature_share, feature_numbers, feature_width: of taps that objectives compare with:
    for which share of each row's tokens they are kept, as what, and in how many channels after a fixed random
    projection (None: all of them, as they are).

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
    recorded = found.teacher if server is None else server.fingerprint
    wanted = replace(
        found,
        teacher=recorded if model is None else fingerprint(model, revision),
        tokenizer=found.tokenizer if tokenizer is None else tokenizer,
        vocab=ids,
        **chosen(settings, found, vocab=ids),
    )
    return Cached(CacheReader(path, wanted), (feature_share, feature_numbers, feature_width))
