"""axolotl's prepared data sets for distillation: tokens, and lists of likeliest ids at each place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from limbeck.converting.samples import Sample, columns_of, flat, square, tables
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
    for table in tables(path, _COLUMNS):
        for row in range(table.num_rows):
            ids = flat(table, "input_ids", row).astype(np.int64)
            kept = square(table, "target_token_ids", row).astype(np.int64)
            logs = square(table, "target_logprobs", row).astype(np.float64)
            mask = square(table, "target_mask", row)
            if not len(ids) == len(kept) == len(logs) == len(mask):
                raise DataError(
                    f"{path}: a sample of {len(ids)} tokens has {len(kept)} places of ids, {len(logs)} of "
                    f"log-probabilities and {len(mask)} of a mask; wanted as many of each."
                )
            known = np.logical_and((mask > 0).all(1), (logs > _NOTHING).all(1))
            weights = np.append(flat(table, "labels", row)[1:] >= 0, False)
            yield Sample(ids, kept, logs, known, weights.astype(np.float32))
