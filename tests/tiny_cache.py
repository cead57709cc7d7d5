"""A small text, a small teacher and a small cache, for tests of recording and reading."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tiny
import torch
from torch import Tensor

from limbeck.cache.format import CacheAbout, tokens_digest
from limbeck.cache.kinds import Record
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.types import Batch, Drawn, HeadMean, Sampled, Signal, TopK, Wanted

LENGTH = 6


class Text:
    """A source of random rows, whose addresses are the digests of their tokens."""

    def __init__(self, rows: int = 10, length: int = LENGTH, *, seed: int = 0) -> None:
        self.rows = rows
        self.length = length
        whole = tiny.batch(rows, length, seed=seed)
        pairs = zip(whole.input_ids, whole.position_ids, strict=True)
        addresses = tuple(tokens_digest(*pair) for pair in pairs)
        weights = torch.ones_like(whole.weights)  # every token counts
        self._whole = replace(whole, addresses=addresses, weights=weights)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these positions; epochs repeat them in the same order."""
        index = torch.tensor([position % self.rows for position in positions])
        tensors = {
            name: getattr(self._whole, name)[index]
            for name in (
                "input_ids",
                "labels",
                "position_ids",
                "document_ids",
                "weights",
                "label_bytes",
            )
        }
        return Batch(**tensors, addresses=tuple(self._whole.addresses[row] for row in index))


class Whole:
    """A teacher that gives the logits of a tiny model, and counts the rows it was asked for."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.model = tiny.llama(dtype=dtype)
        self.asked = 0

    @torch.no_grad()
    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """Logits (tokens, vocab)."""
        self.asked += len(batch.addresses)
        out = self.model(batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        return Signal(logits=batch.pick(out.logits.flatten(0, 1)))


KINDS = {
    "sample": {"threshold": 0.05, "draws": 2},
    "rs": {"samples": 20},
    "topk+rest": {"k": 5, "values": "float32"},
    "hidden8": {"width": 70, "head": "c" * 64},
    "kl-vector": {"width": 70, "head": "c" * 64},
    "feature": {"width": 70, "channels": 70, "tap": "layers.1", "numbers": "int8"},
}


def about(**changes) -> CacheAbout:
    """What a cache of Whole's answers on Text says of itself; `kind` brings settings that suit a small one."""
    kind = changes.get("kind", "topk+rest")
    plain = {"vocab": tiny.VOCAB, "length": LENGTH, "kind": kind, **KINDS[kind]}
    return CacheAbout(**{"teacher": "a" * 64, "tokenizer": "b" * 64, **plain, **changes})


def recorded(about: CacheAbout, rows: int, *, seed: int = 0) -> Tensor:
    """Which tokens of each row are recorded: most. bool (rows, length)."""
    return torch.rand(rows, about.length, generator=tiny.generator(seed)) < 0.8


def some(which: Tensor) -> Tensor:
    """About half of these tokens. bool (rows, length)."""
    return which & (torch.rand(which.shape, generator=tiny.generator(9)) < 0.5)


def record(about: CacheAbout, tokens: int, *, seed: int = 0) -> Record:
    """A record of the kind of this cache, of random numbers that such a record may hold."""
    made = {"sample": drawn, "rs": resampled, "topk+rest": likeliest}
    if about.kind in made:
        return made[about.kind](about, tokens, seed)
    vectors = tiny.randn(tokens, about.width, seed=seed).float()
    plain = about.kind in ("hidden8", "feature")
    return vectors if plain else HeadMean(vectors, _entropy(about, tokens, seed))


def _entropy(about: CacheAbout, tokens: int, seed: int) -> Tensor:
    return torch.rand(tokens, generator=tiny.generator(seed)) * math.log(about.vocab)


def _ids(about: CacheAbout, tokens: int, seed: int) -> Tensor:
    """Different ids of the whole vocabulary: (tokens, 12)."""
    source = tiny.generator(seed)
    return torch.stack([torch.randperm(about.vocab, generator=source)[:12] for _ in range(tokens)])


def drawn(about: CacheAbout, tokens: int, seed: int) -> Drawn:
    """Up to 4 exact ids and up to 5 drawn ones a token."""
    source, ids = tiny.generator(seed), _ids(about, tokens, seed)
    heads = torch.randint(0, 5, (tokens,), generator=source)
    tails = torch.randint(0, 6, (about.draws, tokens), generator=source)
    spans = [
        (ids[t], int(heads[t]), int(tails[d, t])) for d in range(about.draws) for t in range(tokens)
    ]
    exact = torch.cat([ids[t, : int(heads[t])] for t in range(tokens)])
    probabilities = about.threshold + (1 - about.threshold) * torch.rand(
        exact.shape, generator=source
    )
    tail = torch.cat([row[head : head + count] for row, head, count in spans])
    return Drawn(heads, exact, probabilities.log(), tails, tail, _entropy(about, tokens, seed))


def resampled(about: CacheAbout, tokens: int, seed: int) -> Sampled:
    """1 to 8 ids a token, each hit once or more."""
    source, ids = tiny.generator(seed), _ids(about, tokens, seed)
    counts = torch.randint(1, 9, (tokens,), generator=source)
    kept = torch.cat([ids[t, : int(counts[t])] for t in range(tokens)])
    times = torch.randint(1, 4, kept.shape, generator=source)
    return Sampled.of(kept, times / about.samples, counts, _entropy(about, tokens, seed))


def likeliest(about: CacheAbout, tokens: int, seed: int) -> TopK:
    """The likeliest ids of random distributions, in float64."""
    return top(3 * tiny.randn(tokens, about.vocab, seed=seed), about.k)


def written(path: Path, about: CacheAbout, *, rows: int = 3, seed: int = 0):
    """A cache of one shard: its addresses, the record in it, and which tokens that is of."""
    addresses = [f"{seed:016x}{row:016x}" for row in range(rows)]
    which = recorded(about, rows, seed=seed)
    made = record(about, int(which.sum()), seed=seed)
    create_or_check(path, about)
    write_shard(path, addresses, made, about, tokens=addresses, recorded=which)
    return addresses, made, which


def write_all(path: Path, about: CacheAbout, record: Record) -> list[str]:
    """A cache of a record of every token of its rows; the addresses."""
    tokens = 12 if about.length == LENGTH else about.length
    addresses = [f"{row:032x}" for row in range(tokens // about.length)]
    every = torch.ones(len(addresses), about.length, dtype=torch.bool)
    create_or_check(path, about)
    write_shard(path, addresses, record, about, tokens=addresses, recorded=every)
    return addresses


def top(logits: Tensor, k: int) -> TopK:
    """The k likeliest of logits (tokens, vocab) and the mass of the others, the obvious way in float64."""
    logprobs = logits.double().log_softmax(-1)
    kept, ids = logprobs.topk(k)
    return TopK(ids, kept, logprobs.scatter(-1, ids, -torch.inf).logsumexp(-1))


def recorded_into(path: Path, text: Text, about: CacheAbout, *, rows_per_shard: int = 4) -> None:
    """What Whole says of every token of a text, as top k, in shards of a few rows."""
    create_or_check(path, about)
    for start in range(0, text.rows, rows_per_shard):
        batch = text.batch(range(start, min(start + rows_per_shard, text.rows)))
        every = replace(batch, weights=torch.ones_like(batch.weights))
        kept = top(Whole().signal(every, Wanted()).logits, about.k)
        write_shard(
            path, batch.addresses, kept, about, tokens=batch.addresses, recorded=every.weights > 0
        )


def read(reader: CacheReader, addresses: Sequence[str], *, draw: int = 0):
    """What a cache says of every token of these rows."""
    everything = torch.ones(len(addresses), reader.about.length, dtype=torch.bool)
    return reader.read(addresses, everything, [draw] * len(addresses))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, hidden ones too."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
