"""axolotl's prepared data sets for distillation: tokens, and lists of likeliest ids at each place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from limbeck.converting.samples import Line, Sample, columns_of, lines
from limbeck.errors import DataError

_COLUMNS = ("input_ids", "labels", "target_token_ids", "target_logprobs", "target_mask")
# What stands where nothing is known.
_NOTHING = -1e8


def samples(path: Path) -> Iterator[Sample]:
    """The samples of a prepared data set, one after the other.

    Older versions let a place speak of its own token, newer ones of the token after it: which of the two it is is
    seen in the data, since the token that comes is mostly among the likely ones.
    """
    found = columns_of(path)
    if not set(_COLUMNS) <= set(found):
        raise DataError(
            f"{path}: columns {', '.join(found)} found; wanted {', '.join(_COLUMNS)}. "
            "A data set of messages is not tokenised yet: run 'axolotl preprocess' and give the folder that it writes."
        )
    yield from map(_sample, lines(path, _COLUMNS))


def _sample(line: Line) -> Sample:
    ids, labels = line.flat("input_ids"), line.flat("labels")
    kept, logs = line.square("target_token_ids"), line.numbers("target_logprobs")
    mask = line.square("target_mask")
    if not len(ids) == len(labels) == len(kept) == len(logs) == len(mask):
        raise DataError(
            f"{line.where}: a sample of {len(ids)} tokens has {len(labels)} labels, {len(kept)} places of ids, "
            f"{len(logs)} of log-probabilities and {len(mask)} of a mask; wanted as many of each. "
            "Run 'axolotl preprocess' again."
        )
    if not kept.shape == logs.shape == mask.shape:
        raise DataError(
            f"{line.where}: {kept.shape[1]} ids, {logs.shape[1]} log-probabilities and {mask.shape[1]} numbers of a "
            "mask at each place; wanted as many of each. Run 'axolotl preprocess' again."
        )
    # NaN is no word for nothing: such a place is told among those that make no sense.
    known = np.asarray((mask > 0).all(1) & ~(logs <= _NOTHING).any(1))
    weights = np.append(labels[1:] >= 0, False)[: len(ids)]
    return Sample(ids, kept, logs, known, weights.astype(np.float32), line.where)
