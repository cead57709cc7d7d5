"""The k likeliest ids with their log-probabilities, and the mass of all others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.cache import codec, planes
from limbeck.cache.codec import Plane
from limbeck.cache.format import CODE8, CacheAbout
from limbeck.cache.kinds import check
from limbeck.cache.planes import Piece, joined
from limbeck.errors import CacheMismatch
from limbeck.types import TopK

HOLDS = TopK


def encode(record: TopK, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """ids, logprobs (tokens, k) and rest (tokens,), the logs as bytes or floats."""
    if record.rest is None:
        raise CacheMismatch("the mass outside the kept ids is not known; it is needed.")
    count = int(tokens[-1])
    ids, logs, rest = (check.plain(part) for part in (record.ids, record.logprobs, record.rest))
    check.shaped("ids", ids, (count, about.k))
    check.shaped("logprobs", logs, (count, about.k))
    check.shaped("rest", rest, (count,))
    check.ids("ids", ids, about.vocab)
    check.once_a_row("ids", ids)
    check.logs("logprobs", logs)
    check.logs("rest", rest)
    made = codec.id_planes("ids", ids, about.high_bits)
    if about.values == CODE8:
        return made | {"logprobs": codec.log_codes(logs), "rest": codec.log_codes(rest)}
    exact = {"logprobs": logs, "rest": rest}
    return made | {name: codec.floats(part, about.values) for name, part in exact.items()}


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """Different ids that the tokenizer has, and logs of probabilities."""
    count, dtype = int(tokens[-1]), "u1" if about.values == CODE8 else about.values
    layout = codec.id_layout("ids", (count, about.k), about.high_bits)
    layout |= {"logprobs": (dtype, (count, about.k)), "rest": (dtype, (count,))}
    planes.check_layout(found, layout)
    ids = codec.ids_of(found, "ids", 0, count * about.k)
    planes.check_most("ids", ids, about.vocab - 1)
    planes.check_once("ids", ids.reshape(count, about.k))
    if about.values != CODE8:
        for name in ("logprobs", "rest"):
            # What may be written (check.logs), and its rounding to half precision.
            planes.check_most(name, found[name], 2e-3)


def _ids(piece: Piece, k: int) -> Plane:
    flat = codec.ids_of(piece.planes, "ids", piece.begin * k, piece.end * k)
    return piece.pick(flat.reshape(-1, k))


def decode(pieces: Sequence[Piece], about: CacheAbout) -> TopK:
    """Floats as they were recorded; codes so that kept ids and rest sum to 1."""
    ids = codec.wide(joined(pieces, lambda p: _ids(p, about.k)))
    logs = torch.from_numpy(joined(pieces, lambda p: p.take(p.planes["logprobs"])))
    rest = torch.from_numpy(joined(pieces, lambda p: p.take(p.planes["rest"])))
    if about.values == CODE8:
        logs, rest = codec.normalised(logs, rest)
    return TopK(ids, logs, rest)


def estimate(about: CacheAbout) -> float:
    """Exact."""
    each = 1 if about.values == CODE8 else about.floats.itemsize
    return about.k * (2 + about.high_bits / 8 + each) + each
