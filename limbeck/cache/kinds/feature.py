"""What a teacher has at a tap: bfloat16, float32, or int8 with a scale for each group of 64 channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.cache import codec, planes
from limbeck.cache.codec import Plane
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import check
from limbeck.cache.planes import Piece, joined
from limbeck.errors import NonFinite

HOLDS = Tensor


def encode(record: Tensor, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """`codes` and `scales` of int8, else `values`; bfloat16 as its 16 bits. All (tokens, width)."""
    vectors = check.plain(record.float())
    check.shaped("features", vectors, (int(tokens[-1]), about.width))
    check.finite("features", vectors)
    if about.numbers == "int8":
        codes, scales = codec.group_codes(vectors)
        check.finite("features (their scales in half precision)", scales)
        return {"codes": codes, "scales": scales}
    if about.numbers == "float32":
        return {"values": vectors.astype("<f4")}
    rounded = torch.from_numpy(vectors).bfloat16()
    if not bool(rounded.isfinite().all()):
        raise NonFinite(
            "a feature is beyond bfloat16. Set teacher.cached.feature_numbers to float32."
        )
    return {"values": rounded.view(torch.int16).numpy().view("<u2")}


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """As many vectors as there are tokens, all finite."""
    shape = (int(tokens[-1]), about.width)
    if about.numbers == "int8":
        planes.check_layout(found, codec.group_layout(*shape))
        planes.check_finite("scales", found["scales"])
        return
    planes.check_layout(found, {"values": ("<f4" if about.numbers == "float32" else "<u2", shape)})
    if about.numbers == "float32":
        planes.check_finite("values", found["values"])
    elif found["values"].size and (found["values"] & 0x7F80 == 0x7F80).any():
        planes.check_finite("values", np.array([np.nan]))


def decode(pieces: Sequence[Piece], about: CacheAbout) -> Tensor:
    """Features (tokens, width): bfloat16 as they were kept, else float32."""
    if about.numbers == "int8":
        codes = joined(pieces, lambda p: p.take(p.planes["codes"]))
        return codec.vectors_of(codes, joined(pieces, lambda p: p.take(p.planes["scales"])))
    values = torch.from_numpy(joined(pieces, lambda p: p.take(p.planes["values"])).copy())
    return values.view(torch.bfloat16) if about.numbers == "bfloat16" else values


def estimate(about: CacheAbout) -> float:
    """Exact but for a share that is no whole number of tokens."""
    each = {"int8": about.width + 2 * codec.groups(about.width), "float32": 4 * about.width}
    return about.share * each.get(about.numbers, 2 * about.width)
