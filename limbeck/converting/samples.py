"""What the caches of other tools hold: tokens of a sample, and the likeliest ids at each of its places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError

# Rows of a table that are looked at in one go.
_MANY = 16


@dataclass(frozen=True)
class Sample:
    """ids: int64 (tokens,). kept: int64 (tokens, k), logprobs: float (tokens, k), the likeliest ids for the token
    after each place. known: bool (tokens,), where there are any. weights: float (tokens,), what the label after each
    place counts.
    """

    ids: NDArray[np.int64]
    kept: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    known: NDArray[np.bool_]
    weights: NDArray[np.float32]


def tables(path: Path, wanted: Sequence[str] | None) -> Iterator[Any]:
    """Tables of a few rows from Parquet files, or from a dataset that was saved to disk; wanted: columns, or all."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as missing:
        raise DataError(
            f"{path}: reading it needs pyarrow: pip install 'limbeck[data]'."
        ) from missing
    if (path / "state.json").is_file():
        import datasets

        found = datasets.load_from_disk(str(path))
        columns = _columns(path, wanted, found.column_names)
        yield from found.select_columns(columns).with_format("arrow").iter(_MANY)
        return
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{path} holds neither Parquet files nor a dataset that was saved to disk.")
    for file in files:
        opened = pyarrow.parquet.ParquetFile(file)
        columns = _columns(file, wanted, opened.schema_arrow.names)
        for batch in opened.iter_batches(_MANY, columns=columns):
            yield pyarrow.Table.from_batches([batch])


def columns_of(path: Path) -> list[str]:
    """The columns of such tables."""
    return list(next(tables(path, None)).column_names)


def _columns(path: Path, wanted: Sequence[str] | None, found: Sequence[str]) -> list[str]:
    """Those that are wanted; an error where one is missing."""
    missing = [name for name in wanted or () if name not in found]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(found)}. "
            "Give the folder that the other tool wrote."
        )
    return list(found if wanted is None else wanted)


def flat(table: Any, column: str, row: int) -> NDArray[Any]:
    """A list of numbers in one row of a table: (numbers,)."""
    return np.asarray(table.column(column)[row].values.to_numpy(zero_copy_only=False))


def square(table: Any, column: str, row: int) -> NDArray[Any]:
    """A list of equally long lists of numbers in one row of a table: (lists, numbers)."""
    lists = table.column(column)[row].values
    sizes = lists.value_lengths().to_numpy(zero_copy_only=False)
    if len(sizes) and (sizes != sizes[0]).any():
        raise DataError(
            f"{column}: lists of {int(sizes.min())} and of {int(sizes.max())} numbers in one sample; "
            "wanted equally many at each place."
        )
    size = int(sizes[0]) if len(sizes) else 0
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False)).reshape(len(lists), size)
