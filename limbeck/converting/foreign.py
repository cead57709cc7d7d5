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
from limbeck.converting.samples import Sample
from limbeck.data import pieces
from limbeck.data.rows import Row, write_rows
from limbeck.data.tokenize import largest_id, plain, tokenizer_fingerprint
from limbeck.errors import DataError, LimbeckError
from limbeck.types import TopK

TOOLS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "distillkit": distillkit.samples,
    "axolotl": axolotl.samples,
}
ROWS, CACHE = "rows", "cache"
_LOOKED_AT, _ROWS_PER_SHARD = 64, 64
# Of the tokens that come, so many are among the ids that were likely; 0.9 and more in all that was seen.
_HITS = 0.5
# Rounding, and a curve through the less likely, may bring the kept ids of a few places to more than 1.
_MASS, _HEAVY = 1.01, 0.01


@dataclass(frozen=True)
class Converted:
    """What came of it. rows: written. twice: samples that stood there already. tokens: kept; lost: not readable.

    k: ids of a token.
    """

    rows: int
    twice: int
    tokens: int
    lost: int
    k: int


@dataclass
class _Shape:
    """What all rows share. shift: 1 where a place speaks of its own token."""

    length: int
    k: int
    shift: int


def foreign(
    tool: str, path: Path, new: Path, *, tokenizer: Any, teacher: str, values: str = "float32"
) -> Converted:
    """Writes `new`/rows and `new`/cache (topk+rest) from what `tool` kept at `path`.

    Each sample becomes a row, padded to the longest. The mass of ids that were not kept is what is left of 1, since
    the other tools do not keep it.
    """
    read = TOOLS[tool]
    shape = _shape(read, path)
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
    if (new / ROWS).exists():
        raise LimbeckError(f"{new / ROWS} exists already. Convert into another folder.")
    create_or_check(new / CACHE, about)
    for folder in (new, new / CACHE / SHARDS):
        files.sweep_abandoned(folder)
    shards = _Shards(new / CACHE, about, _sizes(tokenizer), shape.shift)
    rows = write_rows(
        new / ROWS,
        shards.rows(read(path)),
        length=shape.length,
        vocab=vocab,
        about={"tokenizer": mark, "from": f"{tool}: {teacher}"},
    )
    return Converted(rows, shards.twice, shards.tokens, shards.lost, shape.k)


def _shape(read: Callable[[Path], Iterator[Sample]], path: Path) -> _Shape:
    """The longest row, the fewest kept ids, and which token a place speaks of; all samples are read once."""
    length, k, seen = 0, 0, list[tuple[float, float]]()
    masses = _Masses()
    for sample in read(path):
        masses.add(sample)
        length = max(length, len(sample.ids) - 1)
        here = sample.kept.shape[1]
        k = here if not k else min(k, here)
        if len(seen) < _LOOKED_AT and len(sample.ids) > 1:
            seen.append((_hits(sample, 0), _hits(sample, 1)))
    if not length or not k:
        raise DataError(f"{path} holds no sample of two tokens or more.")
    masses.check(path)
    after, own = (float(np.nanmean(rates)) for rates in np.array(seen).T)
    if max(after, own) < _HITS:
        raise DataError(
            f"{path}: the token that comes is among the likely ids in {100 * max(after, own):.0f} of 100 places; "
            "wanted 50 or more. The ids are another tokenizer's, or the layout is another."
        )
    return _Shape(length, k, int(own > after))


@dataclass
class _Masses:
    """The probability that the kept ids of a place have together. heavy: of how many places it is none."""

    places: int = 0
    heavy: int = 0
    most: float = 0.0

    def add(self, sample: Sample) -> None:
        """Counts the places of a sample; those that hold no numbers are judged later."""
        known = sample.known & np.isfinite(sample.logprobs).all(1)
        masses = _masses(sample.logprobs[known])
        self.places += len(masses)
        self.heavy += int((masses > _MASS).sum())
        self.most = max(self.most, float(masses.max(initial=0)))

    def check(self, path: Path) -> None:
        """Refuses values that are no log-probabilities; a few places that make no sense are only left out."""
        if self.heavy > _HEAVY * self.places:
            raise DataError(
                f"{path}: the kept ids have a probability of up to {self.most:.4g} together, and more than {_MASS} at "
                f"{self.heavy:,} of {self.places:,} places; wanted 1 at most. These are logits, or log-probabilities "
                "at another temperature or of the kept ids alone: capture log-probabilities over the whole vocabulary."
            )


def _masses(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """(tokens, k) -> (tokens,); what is too large for a number is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(logs).sum(1))


def _hits(sample: Sample, shift: int) -> float:
    """How often the token is kept that a place speaks of: the one after it, or (shift 1) its own."""
    said = sample.ids if shift else np.append(sample.ids[1:], -1)
    known = sample.known & (said >= 0)
    hit = (sample.kept == said[:, None]).any(1)
    return float(hit[known].mean()) if known.any() else float("nan")


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

    def _kept(self, sample: Sample) -> _Kept:
        """A sample padded to a row, and what was said of its places."""
        length = self.about.length
        said, tokens = self._readable(_moved(sample, self.shift)), len(sample.ids)
        ids = np.zeros(length + 1, np.int64)
        ids[:tokens] = sample.ids
        if ids.max() >= self.about.vocab or ids.min() < 0:
            raise DataError(
                f"{self.path}: id {int(ids.max()):,} in a sample; the tokenizer has {self.about.vocab:,}. "
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
        good = np.isfinite(logs).all(1) & (_masses(logs) <= _MASS)
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
    logs = logs - np.where(full, np.log(mass), 0)[:, None]
    rest = np.where(full, -np.inf, np.log(np.where(full, 1, 1 - mass)))
    return TopK(torch.from_numpy(ids), torch.from_numpy(logs), torch.from_numpy(rest))
