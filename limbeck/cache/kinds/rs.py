"""Resampled ids: those that draws with replacement hit, and how often each was hit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.cache import codec, planes
from limbeck.cache.codec import Plane
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import check
from limbeck.cache.planes import Piece, joined, starts
from limbeck.errors import CacheMismatch
from limbeck.types import Sampled

HOLDS = Sampled


def encode(record: Sampled, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """counts, entropy (tokens,): bytes; ids and times (kept,), of which each token has its count."""
    count = int(tokens[-1])
    ids, weights = check.plain(record.ids), check.plain(record.weights).astype(np.float64)
    counts, entropies = np.diff(check.plain(record.starts)), check.entropy(record.entropy)
    check.shaped("counts", counts, (count,))
    check.shaped("entropy", entropies, (count,))
    check.shaped("weights", weights, ids.shape)
    check.counts("counts", counts, about.samples, ids.size)
    check.finite("weights", weights)
    check.ids("ids", ids, about.vocab)
    check.once("ids", ids, np.repeat(np.arange(count), counts), about.vocab)
    times = np.rint(weights * about.samples)
    fit = np.abs(times - weights * about.samples).max(initial=0) < 1e-3
    if not fit or times.min(initial=1) < 1 or times.max(initial=1) > about.samples:
        raise CacheMismatch(
            f"weights from {weights.min():.5f} to {weights.max():.5f}; wanted 1 to {about.samples} "
            f"times 1/{about.samples}. Correct teacher.cached.samples."
        )
    return {
        "counts": counts.astype(np.uint8),
        "entropy": codec.entropy_codes(entropies, about.vocab),
        "times": times.astype(np.uint8),
        "starts": starts(counts, tokens),
        **codec.id_planes("ids", ids, about.high_bits),
    }


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """Counts and places that belong to the ids; ids that the tokenizer has."""
    count, kept = int(tokens[-1]), found["ids"].size if "ids" in found else 0
    layout = codec.id_layout("ids", (kept,), about.high_bits)
    layout |= dict.fromkeys(("counts", "entropy"), ("u1", (count,)))
    planes.check_layout(found, layout | {"times": ("u1", (kept,)), "starts": ("<u8", tokens.shape)})
    planes.check_counts("counts", found["counts"], kept)
    planes.check_starts("starts", found["starts"], starts(found["counts"], tokens))
    planes.check_most("ids", codec.ids_of(found, "ids", 0, kept), about.vocab - 1)
    planes.check_most("times", found["times"], about.samples)


def _span(piece: Piece) -> tuple[int, int]:
    first, last = piece.planes["starts"][piece.row : piece.row + 2]
    return int(first), int(last)


def _counts(piece: Piece) -> Plane:
    return piece.planes["counts"][piece.begin : piece.end]


def decode(pieces: Sequence[Piece], about: CacheAbout) -> Sampled:
    """Ids, and the share of the draws that hit each."""
    ids = joined(pieces, lambda p: p.pick(codec.ids_of(p.planes, "ids", *_span(p)), _counts(p)))
    times = joined(pieces, lambda p: p.pick(p.planes["times"][slice(*_span(p))], _counts(p)))
    counts = joined(pieces, lambda p: p.pick(_counts(p)))
    entropy = joined(pieces, lambda p: p.take(p.planes["entropy"]))
    return Sampled.of(
        codec.wide(ids),
        torch.from_numpy(times.astype(np.float32) / about.samples),
        codec.wide(counts),
        codec.entropies(entropy, about.vocab),
    )


def estimate(about: CacheAbout) -> float:
    """An estimate: 50 draws hit about 16 ids of prose, and ids grow as the root of the draws and a little faster."""
    kept = min(float(about.samples), 16 * math.pow(about.samples / 50, 0.7))
    return 2 + kept * (3 + about.high_bits / 8)
