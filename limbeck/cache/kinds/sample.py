"""Threshold samples: the likely ids with one-byte probabilities, and drawn ids that each weigh the threshold."""

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
from limbeck.types import Drawn, Sampled

HOLDS = Drawn


def encode(record: Drawn, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """heads, entropy (tokens,), tails (draws, tokens): bytes; ids of both; head_codes; where rows begin in ids."""
    count = int(tokens[-1])
    heads, tails, entropy = check.plain(record.heads), check.plain(record.tails), record.entropy
    head_ids, tail_ids = check.plain(record.head_ids), check.plain(record.tail_ids)
    logs, entropies = check.plain(record.head_logprobs), check.entropy(entropy)
    check.shaped("heads", heads, (count,))
    check.shaped("tails", tails, (about.draws, count))
    check.shaped("entropy", entropies, (count,))
    check.shaped("head_logprobs", logs, head_ids.shape)
    check.counts("heads", heads, about.vocab, head_ids.size)
    check.counts("tails", tails, about.vocab, tail_ids.size)
    check.logs("head_logprobs", logs, least=math.log(about.threshold) - 1e-3)
    _check_ids(heads, head_ids, tails, tail_ids, about)
    return {
        "heads": heads.astype(np.uint8),
        "tails": tails.astype(np.uint8),
        "entropy": codec.entropy_codes(entropies, about.vocab),
        "head_codes": codec.head_codes(logs, about.threshold),
        "head_starts": starts(heads, tokens),
        "tail_starts": _tail_starts(tails, tokens),
        **codec.id_planes("head_ids", head_ids, about.high_bits),
        **codec.id_planes("tail_ids", tail_ids, about.high_bits),
    }


def _check_ids(
    heads: Plane, head_ids: Plane, tails: Plane, tail_ids: Plane, about: CacheAbout
) -> None:
    check.ids("head_ids", head_ids, about.vocab)
    check.ids("tail_ids", tail_ids, about.vocab)
    index = np.arange(heads.size)
    exact, end = np.repeat(index, heads), 0
    for draw in range(about.draws):
        begin, end = end, end + int(tails[draw].sum())
        drawn = np.repeat(index, tails[draw])
        both = np.concatenate([head_ids, tail_ids[begin:end]])
        check.once("head_ids and tail_ids", both, np.concatenate([exact, drawn]), about.vocab)


def _tail_starts(tails: Plane, tokens: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Where each row of each draw begins in tail_ids: (draws, rows + 1)."""
    each = tails.sum(1, dtype=np.int64)  # (draws,)
    before = (each.cumsum() - each).astype("<u8")
    places = [starts(tail, tokens) + first for tail, first in zip(tails, before, strict=True)]
    return np.stack(places).astype("<u8")


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """Counts and places that belong to the ids; ids that the tokenizer has."""
    count, both = int(tokens[-1]), ("head_ids", "tail_ids")
    heads, tails = (found[name].size if name in found else 0 for name in both)
    layout = codec.id_layout("head_ids", (heads,), about.high_bits)
    layout |= codec.id_layout("tail_ids", (tails,), about.high_bits)
    layout |= dict.fromkeys(("heads", "entropy"), ("u1", (count,)))
    layout |= {"tails": ("u1", (about.draws, count)), "head_codes": ("u1", (heads,))}
    layout["head_starts"] = ("<u8", tokens.shape)
    planes.check_layout(found, layout | {"tail_starts": ("<u8", (about.draws, tokens.size))})
    planes.check_counts("heads", found["heads"], heads)
    planes.check_counts("tails", found["tails"], tails)
    planes.check_starts("head_starts", found["head_starts"], starts(found["heads"], tokens))
    planes.check_starts("tail_starts", found["tail_starts"], _tail_starts(found["tails"], tokens))
    for name, size in zip(both, (heads, tails), strict=True):
        planes.check_most(name, codec.ids_of(found, name, 0, size), about.vocab - 1)


def _head_span(piece: Piece) -> tuple[int, int]:
    first, last = piece.planes["head_starts"][piece.row : piece.row + 2]
    return int(first), int(last)


def _tail_span(piece: Piece) -> tuple[int, int]:
    first, last = piece.planes["tail_starts"][piece.draw, piece.row : piece.row + 2]
    return int(first), int(last)


def _heads(piece: Piece) -> Plane:
    return piece.planes["heads"][piece.begin : piece.end]


def _tails(piece: Piece) -> Plane:
    return piece.planes["tails"][piece.draw, piece.begin : piece.end]


def decode(pieces: Sequence[Piece], about: CacheAbout) -> Sampled:
    """Ids and weights of the chosen draw: exact ones first, then those drawn, in each token."""
    heads = joined(pieces, lambda p: p.pick(_heads(p))).astype(np.int64)
    tails = joined(pieces, lambda p: p.pick(_tails(p))).astype(np.int64)
    head_ids = joined(
        pieces, lambda p: p.pick(codec.ids_of(p.planes, "head_ids", *_head_span(p)), _heads(p))
    )
    tail_ids = joined(
        pieces, lambda p: p.pick(codec.ids_of(p.planes, "tail_ids", *_tail_span(p)), _tails(p))
    )
    codes = joined(
        pieces, lambda p: p.pick(p.planes["head_codes"][slice(*_head_span(p))], _heads(p))
    )
    both = heads + tails
    ends = both.cumsum()
    # A head id stands after all ids of earlier tokens; of those, the heads are counted by its own number.
    exact = np.repeat(tails.cumsum() - tails, heads) + np.arange(head_ids.size)
    drawn = np.repeat(heads.cumsum(), tails) + np.arange(tail_ids.size)
    ids = np.empty(int(ends[-1]) if ends.size else 0, np.int64)
    weights = np.full(ids.shape, about.threshold, np.float32)
    ids[exact], ids[drawn] = head_ids, tail_ids
    weights[exact] = codec.head_table(about.threshold)[codes]
    entropy = joined(pieces, lambda p: p.take(p.planes["entropy"]))
    return Sampled.of(
        torch.from_numpy(ids),
        torch.from_numpy(weights),
        torch.from_numpy(both),
        codec.entropies(entropy, about.vocab),
    )


def estimate(about: CacheAbout) -> float:
    """An estimate, rather too high: 44 bytes were measured on technical prose at 1/50, 48 on an encyclopedia."""
    each = 2 + about.high_bits / 8
    exact, drawn = 0.11 / about.threshold, 0.3 / about.threshold
    return 2 + exact * (each + 1) + about.draws * (1 + drawn * each)
