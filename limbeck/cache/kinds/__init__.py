"""What can be kept of a token, one module a kind: how it becomes planes, and what planes say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from limbeck.cache.codec import Plane
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import feature, hidden8, kl_vector, rs, sample, topk_rest
from limbeck.cache.planes import Piece
from limbeck.types import Drawn, HeadMean, Sampled, TopK

Record = Drawn | Sampled | TopK | HeadMean | Tensor
"""What is written: of recorded tokens, in order; a Tensor is hidden states (tokens, width)."""
Said = Sampled | TopK | HeadMean | Tensor
"""What is read: of the tokens that count, in order."""


class Kind(Protocol):
    """A module of this room."""

    @property
    def HOLDS(self) -> type:  # noqa: N802
        """The type of its records."""
        ...

    def encode(self, record: Any, about: CacheAbout, tokens: NDArray[np.int64]) -> dict[str, Plane]:
        """The planes of a record; tokens (rows + 1,): where each row begins among the recorded tokens."""
        ...

    def fit(self, found: dict[str, Plane], about: CacheAbout, tokens: NDArray[np.int64]) -> None:
        """Refuses planes that no record of so many tokens becomes; once a shard, before any of it is decoded."""
        ...

    def decode(self, pieces: Sequence[Piece], about: CacheAbout) -> Any:
        """What the pieces say, as one, on the CPU."""
        ...

    def estimate(self, about: CacheAbout) -> float:
        """Bytes a token."""
        ...


KINDS: dict[str, Kind] = {
    "sample": sample,
    "rs": rs,
    "topk+rest": topk_rest,
    "hidden8": hidden8,
    "kl-vector": kl_vector,
    "feature": feature,
}


def estimate(about: CacheAbout) -> float:
    """Bytes a recorded token, for planning: exact but for `sample` and `rs`, whose ids vary with the text."""
    return KINDS[about.kind].estimate(about)


def estimate_row(about: CacheAbout) -> int:
    """Bytes of a whole row, for planning: its tokens, address, digest and places."""
    bits = -(-about.length // 8)
    return int(about.length * estimate(about)) + bits + 32 + 8 * (about.draws + 1)
