"""What all rows of a capture share: their length, how many ids each place keeps, and which token a place speaks of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limbeck.converting.samples import Sample
from limbeck.errors import DataError

# Rounding, and a curve through the less likely, may bring the kept ids of a few places to more than 1.
MASS = 1.01
_HEAVY = 0.01
_LOOKED_AT = 64
# Of the tokens that come, so many are among the ids that were likely; 0.9 and more in all that was seen.
_HITS = 0.5


@dataclass(frozen=True)
class Shape:
    """shift: 1 where a place speaks of its own token. passed_over: samples from which nothing can be learnt."""

    length: int
    k: int
    shift: int
    passed_over: int


def shape_of(samples: Iterable[Sample], path: Path) -> Shape:
    """The longest row, the fewest kept ids, and which token a place speaks of; all samples are read once."""
    length, k, passed_over, seen = 0, 0, 0, list[tuple[float, float]]()
    masses = _Masses()
    for sample in samples:
        if sample.empty:
            passed_over += 1
            continue
        masses.add(sample)
        length = max(length, len(sample.ids) - 1)
        here = sample.kept.shape[1]
        k = min(k or here, here)
        if len(seen) < _LOOKED_AT:
            seen += _rates(sample)
    if not length:
        raise DataError(
            f"{path} holds no sample of two tokens or more of which anything is known; {passed_over:,} samples found. "
            "Capture log-probabilities, and look at what masks them."
        )
    masses.check(path)
    return Shape(length, k, _shift(seen, path), passed_over)


def _shift(seen: list[tuple[float, float]], path: Path) -> int:
    """Which token a place speaks of, of how often the one after it and its own are kept."""
    if not seen:
        raise DataError(
            f"{path}: the last place alone is known of each sample, so that no place can be told from the one before "
            "it. Capture log-probabilities of whole samples."
        )
    after, own = (float(rate) for rate in np.array(seen).mean(0))
    if max(after, own) < _HITS:
        raise DataError(
            f"{path}: the token that comes is among the likely ids in {100 * max(after, own):.0f} of 100 places; "
            "wanted 50 or more. The ids are another tokenizer's, or the layout is another."
        )
    return int(own > after)


@dataclass
class _Masses:
    """The probability that the kept ids of a place have together. heavy: of how many places it is none."""

    places: int = 0
    heavy: int = 0
    most: float = 0.0

    def add(self, sample: Sample) -> None:
        """Counts the places of a sample; those that hold no numbers are judged later."""
        known = sample.known & np.isfinite(sample.logprobs).all(1)
        masses = masses_of(sample.logprobs[known])
        self.places += len(masses)
        self.heavy += int((masses > MASS).sum())
        self.most = max(self.most, float(masses.max(initial=0)))

    def check(self, path: Path) -> None:
        """Refuses values that are no log-probabilities; a few places that make no sense are only left out."""
        if self.heavy > _HEAVY * self.places:
            raise DataError(
                f"{path}: the kept ids have a probability of up to {self.most:.4g} together, and more than {MASS} at "
                f"{self.heavy:,} of {self.places:,} places; wanted 1 at most. These are logits, or log-probabilities "
                "at another temperature or of the kept ids alone: capture log-probabilities over the whole vocabulary."
            )


def masses_of(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability of all kept ids of a place: (tokens, k) -> (tokens,); what is too large for a number is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(logs).sum(1))


def _rates(sample: Sample) -> list[tuple[float, float]]:
    """How often the token is kept that a place speaks of, were it the one after it, and were it its own.

    None where the last place alone is known: no token comes after it, so that the two cannot be compared.
    """
    after = (sample.kept[:-1] == sample.ids[1:, None]).any(1)[sample.known[:-1]]
    own = (sample.kept == sample.ids[:, None]).any(1)[sample.known]
    return [(float(after.mean()), float(own.mean()))] if len(after) else []
