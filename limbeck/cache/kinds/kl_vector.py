"""The mean row of a frozen student head under the teacher: forward KL over the whole vocabulary in one vector."""

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
from limbeck.types import HeadMean

HOLDS = HeadMean


def encode(record: HeadMean, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
    """Codes (tokens, width) and scales (tokens, groups), or rows (tokens, width) as floats; entropy (tokens,)."""
    count = int(tokens[-1])
    rows, entropies = check.plain(record.rows), check.entropy(record.entropy)
    check.shaped("rows", rows, (count, about.width))
    check.shaped("entropy", entropies, (count,))
    check.finite("rows", rows)
    made: dict[str, Plane] = {"entropy": entropies.astype(_entropy_dtype(about))}
    if about.values == CODE8:
        codes, scales = codec.group_codes(rows)
        made |= {"codes": codes, "scales": scales}
    else:
        made["rows"] = codec.floats(rows, about.values)
    check.finite("rows (in fewer bytes)", made.get("scales", made.get("rows", rows)))
    return made


def fit(found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
    """Finite rows, and an entropy each."""
    count = int(tokens[-1])
    layout: codec.Layout = {"entropy": (_entropy_dtype(about), (count,))}
    if about.values == CODE8:
        layout |= codec.group_layout(count, about.width)
    else:
        layout["rows"] = (about.values, (count, about.width))
    planes.check_layout(found, layout)
    for name in set(layout) - {"codes"}:
        planes.check_finite(name, found[name])


def _entropy_dtype(about: CacheAbout) -> str:
    """Four bytes beside hundreds; eight where all else is kept in eight."""
    return "<f8" if about.values == "float64" else "<f4"


def decode(pieces: Sequence[Piece], about: CacheAbout) -> HeadMean:
    """Mean rows (tokens, width) and entropy (tokens,)."""
    entropy = torch.from_numpy(joined(pieces, lambda p: p.take(p.planes["entropy"])))
    if about.values != CODE8:
        rows = torch.from_numpy(joined(pieces, lambda p: p.take(p.planes["rows"])))
        return HeadMean(rows, entropy)
    codes = joined(pieces, lambda p: p.take(p.planes["codes"]))
    scales = joined(pieces, lambda p: p.take(p.planes["scales"]))
    return HeadMean(codec.vectors_of(codes, scales), entropy)


def estimate(about: CacheAbout) -> float:
    """Exact."""
    if about.values == CODE8:
        return about.width + 2 * codec.groups(about.width) + 4
    entropy = 8 if about.values == "float64" else 4
    return about.width * about.floats.itemsize + entropy
