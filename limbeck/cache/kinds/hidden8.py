"""The teacher's last hidden states in int8; the head that makes logits of them stands beside, once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.cache import codec, planes
from limbeck.cache.codec import Plane
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import check
from limbeck.cache.planes import Piece, joined

HOLDS = Tensor


def encode(record: Tensor, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """Codes (tokens, width) and scales (tokens, groups)."""
    hidden = check.plain(record)
    check.shaped("hidden", hidden, (int(tokens[-1]), about.width))
    check.finite("hidden", hidden)
    codes, scales = codec.group_codes(hidden)
    check.finite("hidden (in half precision)", scales)
    return {"codes": codes, "scales": scales}


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """Codes and scales of all tokens, the scales finite."""
    planes.check_layout(found, codec.group_layout(int(tokens[-1]), about.width))
    planes.check_finite("scales", found["scales"])


def decode(pieces: Sequence[Piece], about: CacheAbout) -> Tensor:  # noqa: ARG001
    """Hidden states: float32 (tokens, width)."""
    codes = joined(pieces, lambda p: p.take(p.planes["codes"]))
    return codec.vectors_of(codes, joined(pieces, lambda p: p.take(p.planes["scales"])))


def estimate(about: CacheAbout) -> float:
    """Exact; the head beside is not in it."""
    return about.width + 2 * codec.groups(about.width)
