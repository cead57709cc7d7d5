"""What is kept of a teacher's taps: for which tokens, in how many channels, and where it lies beside a cache."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.cache.format import FEATURES, CacheAbout
from limbeck.errors import ModelError
from limbeck.planning import Planned
from limbeck.selection.share import fewest, keyed, size
from limbeck.types import Batch, Signal


def folder(path: Path, tap: str) -> Path:
    """Where the features of a tap lie: a cache of their own inside the other's folder."""
    return path / FEATURES / tap


@dataclass(frozen=True)
class FeatureKeeper:
    """Makes the records of a tap's cache."""

    about: CacheAbout

    def narrowed(self, rows: Planned) -> Planned:
        """The same rows, with those of their tokens whose features are kept."""
        if self.about.share == 1 or not len(rows):
            return rows
        there = rows.mask(self.about.length)
        sizes = [size(self.about.share, n) if n else 0 for n in there.sum(-1).tolist()]
        keys = [keyed(address, FEATURES) for address in rows.addresses]
        return rows.masked(fewest(keys, there, sizes))

    def keep(self, signal: Signal, batch: Batch, kept: Tensor) -> Tensor:
        """Features (kept, width) on the CPU, of tokens that a batch counts; kept: bool (rows, length)."""
        found = signal.features.get(self.about.tap)
        if found is None or found.shape[-1] != self.about.channels:
            shown = "nothing" if found is None else f"{found.shape[-1]} channels"
            raise ModelError(
                f"the teacher shows {shown} at {self.about.tap}; its config says {self.about.channels} channels."
            )
        places = kept.view(-1)[batch.counted.cpu()].nonzero().squeeze(-1)
        some = found.index_select(0, places.to(found.device))
        if self.about.width == self.about.channels:
            return some.cpu()
        return (some.float() @ self.projection.to(some.device)).cpu()

    @cached_property
    def projection(self) -> Tensor:
        """A fixed random map that keeps distances in the mean (Johnson and Lindenstrauss, 1984): (channels, width).

        A pure function of teacher, tap and sizes, so that rows recorded later fit those that are there.
        """
        about = self.about
        text = f"{about.teacher}/{about.tap}/{about.channels}/{about.width}"
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
        numbers = np.random.Generator(np.random.Philox(key=key)).standard_normal(
            (about.channels, about.width)
        )
        return torch.from_numpy(numbers / about.width**0.5).float()


def about_tap(
    main: CacheAbout, tap: str, channels: int, kept: tuple[float, str, int | None]
) -> CacheAbout:
    """What the cache of a tap says of itself, beside `main`. kept: share, numbers, and width or None for all channels."""
    share, numbers, width = kept
    plain = CacheAbout(main.teacher, main.tokenizer, main.vocab, main.length)
    return replace(
        plain,
        kind="feature",
        tap=tap,
        share=share,
        numbers=numbers,
        width=width or channels,
        channels=channels,
        teacher_name=main.teacher_name,
    )
