"""A cache of another tool becomes rows that the source `packed` serves, and a cache beside them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck import files
from limbeck.cache.format import SHARDS, CacheAbout, tokens_digest
from limbeck.cache.write import create_or_check, shard_folder, write_shard
from limbeck.converting import axolotl, distillkit
from limbeck.converting.samples import Sample, files_of
from limbeck.converting.shape import MASS, masses_of, shape_of
from limbeck.converting.unfinished import begin_or_go_on, digests
from limbeck.data import pieces
from limbeck.data.rows import Row, write_rows
from limbeck.data.tokenize import largest_id, plain, tokenizer_fingerprint
from limbeck.errors import DataError, LimbeckError
from limbeck.types import TopK


@dataclass(frozen=True)
class Tool:
    """samples: reads what it captured. inputs: the files that say what these samples are."""

    samples: Callable[[Path], Iterator[Sample]]
    inputs: Callable[[Path], list[Path]]


TOOLS = {
    "distillkit": Tool(distillkit.samples, distillkit.inputs),
    "axolotl": Tool(axolotl.samples, files_of),
}
ROWS, CACHE = "rows", "cache"
_ROWS_PER_SHARD = 64


@dataclass(frozen=True)
class Converted:
    """What came of it. rows: written. twice: samples that stood there already. tokens: kept; lost: not readable.

    k: ids of a token. passed_over: samples of fewer than two tokens, or of which nothing is known.
    """

    rows: int
    twice: int
    tokens: int
    lost: int
    k: int
    passed_over: int


def foreign(
    tool: str, path: Path, new: Path, *, tokenizer: Any, teacher: str, values: str = "float32"
) -> Converted:
    """Writes `new`/rows and `new`/cache (topk+rest) from what `tool` kept at `path`.

    Each sample becomes a row, padded to the longest. The mass of ids that were not kept is what is left of 1, since
    the other tools do not keep it. A conversion that was broken off goes on, with the same input.
    """
    read = TOOLS[tool]
    if (new / ROWS).exists():
        raise LimbeckError(f"{new / ROWS} exists already. Convert into another folder.")
    given = digests(read.inputs(path))
    shape = shape_of(read.samples(path), path)
    mark, vocab = tokenizer_fingerprint(tokenizer), largest_id(tokenizer) + 1
    about = CacheAbout(
        # A name, not a fingerprint: what the teacher was is not written in these caches.
        teacher=files.digest(f"{tool} {teacher}".encode()),
        teacher_name=teacher,
        tokenizer=mark,
        vocab=vocab,
        length=shape.length,
        kind="topk+rest",
        k=shape.k,
        values=values,
    )
    begin_or_go_on(new, new / CACHE / SHARDS, given)
    create_or_check(new / CACHE, about)
    for folder in (new, new / CACHE / SHARDS):
        files.sweep_abandoned(folder)
    shards = _Shards(new / CACHE, about, _sizes(tokenizer), shape.shift)
    rows = write_rows(
        new / ROWS,
        shards.rows(sample for sample in read.samples(path) if not sample.empty),
        length=shape.length,
        vocab=vocab,
        about={"tokenizer": mark, "from": f"{tool}: {teacher}"},
    )
    return Converted(rows, shards.twice, shards.tokens, shards.lost, shape.k, shape.passed_over)


def _sizes(tokenizer: Any) -> NDArray[np.int64]:
    """UTF-8 bytes of each id."""
    found = pieces.known(plain(tokenizer)).sizes
    if found is None:
        every = range(largest_id(tokenizer) + 1)
        found = np.array([len(tokenizer.decode([one]).encode()) for one in every])
    return np.asarray(np.maximum(found, 0), dtype=np.int64)


@dataclass(frozen=True)
class _Kept:
    """A row; known: bool (length,), of which tokens something was said; ids, logs: that, (known tokens, k)."""

    row: Row
    known: NDArray[np.bool_]
    ids: NDArray[np.int64]
    logs: NDArray[np.float64]


class _Shards:
    """Turns samples into rows, and writes what was kept of them into a cache on the way."""

    def __init__(self, path: Path, about: CacheAbout, sizes: NDArray[np.int64], shift: int) -> None:
        self.path, self.about, self.sizes, self.shift = path, about, sizes, shift
        self.twice = self.tokens = self.lost = 0

    def rows(self, samples: Iterator[Sample]) -> Iterator[Row]:
        """The rows of samples, each once; their shard is committed before the first of them is handed out."""
        seen: set[str] = set()
        while group := list(itertools.islice(samples, _ROWS_PER_SHARD)):
            fresh: dict[str, _Kept] = {}
            for sample in group:
                kept = self._kept(sample)
                address = kept.row.address
                if address in seen:
                    self.twice += 1
                else:
                    seen.add(address)
                    fresh[address] = kept
            if fresh:
                self._write(fresh)
            yield from (kept.row for kept in fresh.values())
        if not self.tokens:
            raise DataError(
                f"{self.path}: 0 tokens are known, and {self.lost:,} places made no sense: numbers that are none, an id "
                "twice or of another tokenizer, more probability than 1. Give its tokenizer, or capture again."
            )

    def _kept(self, sample: Sample) -> _Kept:
        """A sample padded to a row, and what was said of its places."""
        length = self.about.length
        said, tokens = self._readable(_moved(sample, self.shift)), len(sample.ids)
        ids = np.zeros(length + 1, np.int64)
        ids[:tokens] = sample.ids
        wrong = ids[(ids < 0) | (ids >= self.about.vocab)]
        if len(wrong):
            raise DataError(
                f"{sample.where}: id {wrong[0]:,} found; the tokenizer has 0 to {self.about.vocab - 1:,}. "
                "Give the tokenizer that the samples were made with."
            )
        inside = np.arange(length) < tokens - 1
        known = inside & _fitted(said.known, length)
        row = Row(
            ids=ids,
            weights=np.where(known, _fitted(said.weights, length), 0).astype(np.float32),
            documents=np.where(np.arange(length) < tokens, 0, 1).astype(np.int64),
            sizes=np.where(inside, self.sizes[ids[1:]], 0),
        )
        places = np.flatnonzero(known)
        return _Kept(row, known, said.kept[places], said.logprobs[places])

    def _readable(self, sample: Sample) -> Sample:
        """Without places whose ids or probabilities make no sense; the fewest ids that any sample has."""
        kept, logs = sample.kept[:, : self.about.k], sample.logprobs[:, : self.about.k]
        ordered = np.sort(kept, axis=1)
        good = np.isfinite(logs).all(1) & (masses_of(logs) <= MASS)
        good &= (ordered[:, 1:] != ordered[:, :-1]).all(1)
        good &= (kept >= 0).all(1) & (kept < self.about.vocab).all(1)
        self.lost += int((sample.known & ~good).sum())
        return replace(sample, kept=kept, logprobs=logs, known=sample.known & good)

    def _write(self, fresh: dict[str, _Kept]) -> None:
        """One shard of these rows, unless an earlier conversion that was broken off wrote it."""
        recorded = torch.from_numpy(np.stack([kept.known for kept in fresh.values()]))
        self.tokens += int(recorded.sum())
        if shard_folder(self.path, list(fresh), recorded).exists():
            return
        ids = np.concatenate([kept.ids for kept in fresh.values()])
        logs = np.concatenate([kept.logs for kept in fresh.values()])
        tokens = [
            tokens_digest(torch.from_numpy(row.ids[:-1].copy()), torch.from_numpy(row.positions))
            for row in (kept.row for kept in fresh.values())
        ]
        write_shard(
            self.path,
            list(fresh),
            _topk(ids, logs),
            self.about,
            tokens=tokens,
            recorded=recorded,
        )


def _moved(sample: Sample, shift: int) -> Sample:
    """What was said of a token stands at the place before it."""
    if not shift:
        return sample
    known = np.append(sample.known[1:], False)
    return replace(
        sample,
        kept=np.roll(sample.kept, -1, axis=0),
        logprobs=np.roll(sample.logprobs, -1, axis=0),
        known=known,
    )


def _fitted(values: NDArray[Any], length: int) -> NDArray[Any]:
    """The first `length` of values, with zeros after those that there are."""
    return np.pad(values[:length], (0, max(0, length - len(values))))


def _topk(ids: NDArray[np.int64], logs: NDArray[np.float64]) -> TopK:
    """Likeliest first; the rest is what is left of 1, and what rounding put above 1 is scaled to it."""
    order = np.argsort(-logs, axis=1, kind="stable")
    ids, logs = np.take_along_axis(ids, order, 1), np.take_along_axis(logs, order, 1)
    mass = np.exp(logs).sum(1)
    # Rounding; of a millionth nothing is known.
    full = mass > 1 - 1e-6
    logs = logs - np.log(np.where(full, mass, 1))[:, None]
    rest = np.where(full, -np.inf, np.log(np.where(full, 1, 1 - mass)))
    return TopK(torch.from_numpy(ids), torch.from_numpy(logs), torch.from_numpy(rest))
