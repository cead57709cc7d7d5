"""What the caches of other tools hold: tokens of a sample, and the likeliest ids at each of its places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.data.records import one_by_one
from limbeck.errors import DataError

# Rows of a table that are looked at in one go.
_MANY = 16
# Above it a whole number is no id, and may not fit into 64 bits.
_LARGEST = 1 << 62


@dataclass(frozen=True)
class Sample:
    """ids: int64 (tokens,). kept: int64 (tokens, k), logprobs: float (tokens, k), the likeliest ids for the token
    after each place. known: bool (tokens,), where there are any. weights: float (tokens,), what the label after each
    place counts. where: its file and row.
    """

    ids: NDArray[np.int64]
    kept: NDArray[np.int64]
    logprobs: NDArray[np.float64]
    known: NDArray[np.bool_]
    weights: NDArray[np.float32]
    where: str

    @property
    def empty(self) -> bool:
        """Whether nothing can be learnt from it: no token follows another, or of none something is known."""
        return len(self.ids) < 2 or not self.kept.shape[1] or not self.known.any()


@dataclass(frozen=True)
class Line:
    """One row of a table. where: its file and number."""

    table: Any
    row: int
    where: str

    def flat(self, column: str) -> NDArray[np.int64]:
        """A list of whole numbers: (numbers,)."""
        return self._whole(column, self._cell(column, 1))

    def square(self, column: str) -> NDArray[np.int64]:
        """A list of equally long lists of whole numbers: (lists, numbers)."""
        numbers, shape = self._even(column)
        return self._whole(column, numbers).reshape(shape)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A list of equally long lists of numbers: (lists, numbers); null is NaN."""
        numbers, shape = self._even(column)
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64).reshape(shape)

    def wrong(self, column: str, told: str) -> DataError:
        """The error that names this row of a column."""
        return DataError(
            f"{self.where}, column {column}: {told} Give the folder that the other tool wrote, or write it again."
        )

    def _cell(self, column: str, depth: int) -> Any:
        """What lies in a column at this row; depth: lists in lists that it must be, of numbers."""
        from pyarrow import types

        found = self.table.column(column)
        inner = found.type
        for _ in range(depth):
            if not (
                types.is_list(inner)
                or types.is_large_list(inner)
                or types.is_fixed_size_list(inner)
            ):
                break
            inner, depth = inner.value_type, depth - 1
        # An empty list does not say of what it is.
        fits = types.is_integer(inner) or types.is_floating(inner) or types.is_boolean(inner)
        if depth or not (fits or types.is_null(inner)):
            raise self.wrong(
                column, f"{found.type} found; wanted lists of numbers, one for each place."
            )
        lists = found[self.row].values
        if lists is None:
            raise self.wrong(column, "null found; wanted a list.")
        return lists

    def _even(self, column: str) -> tuple[Any, tuple[int, int]]:
        """The numbers of a list of lists, one after the other, and how they lie."""
        import pyarrow.compute

        lists = self._cell(column, 2)
        if lists.null_count:
            raise self.wrong(
                column, f"null found at {lists.null_count} places; wanted a list at each."
            )
        sizes = pyarrow.compute.list_value_length(lists).to_numpy(zero_copy_only=False)
        if len(sizes) and (sizes != sizes[0]).any():
            raise self.wrong(
                column,
                f"lists of {int(sizes.min())} and of {int(sizes.max())} numbers in one sample; "
                "wanted equally many at each place.",
            )
        return lists.flatten(), (len(lists), int(sizes[0]) if len(sizes) else 0)

    def _whole(self, column: str, numbers: Any) -> NDArray[np.int64]:
        """Numbers that are whole, as int64."""
        if numbers.null_count:
            raise self.wrong(
                column, f"{numbers.null_count} of its numbers are null; wanted whole ones."
            )
        found = np.asarray(numbers.to_numpy(zero_copy_only=False))
        if found.dtype.kind in "fu":
            # NaN is not equal to itself.
            strange = found[(found != np.trunc(found)) | (found > _LARGEST) | (found < -_LARGEST)]
            if len(strange):
                raise self.wrong(
                    column, f"{strange[0]} found; wanted whole numbers of 62 bits at most."
                )
        return np.asarray(found.astype(np.int64))


def lines(path: Path, wanted: Sequence[str]) -> Iterator[Line]:
    """The rows of Parquet files, or of a dataset that was saved to disk; wanted: their columns."""
    if _saved(path):
        yield from _lines_of_dataset(path, wanted)
    for file in [] if _saved(path) else files_of(path):
        opened, number = _parquet(file), 0
        columns = _columns(file, wanted, opened.schema_arrow.names)
        try:
            for batch in opened.iter_batches(_MANY, columns=columns):
                for row in range(batch.num_rows):
                    yield Line(batch, row, f"{file}, row {number + row + 1}")
                number += batch.num_rows
        except _foreign() as reason:
            raise _unreadable(file, f"Parquet, from row {number + 1} on", reason) from reason


def _lines_of_dataset(path: Path, wanted: Sequence[str]) -> Iterator[Line]:
    found, number = _dataset(path), 0
    columns = _columns(path, wanted, found.column_names)
    try:
        for table in found.select_columns(columns).with_format("arrow").iter(_MANY):
            # Arrow's own files are mapped as they are: an offset that points outside ends the process.
            table.validate(full=True)
            for row in range(table.num_rows):
                yield Line(table, row, f"{path}, row {number + row + 1}")
            number += table.num_rows
    except _foreign() as reason:
        raise _unreadable(path, f"a saved dataset, from row {number + 1} on", reason) from reason


def columns_of(path: Path) -> list[str]:
    """The columns of such tables."""
    if _saved(path):
        return list(_dataset(path).column_names)
    return list(_parquet(files_of(path)[0]).schema_arrow.names)


def files_of(path: Path) -> list[Path]:
    """The files that hold the rows, in their order."""
    if _saved(path):
        return [Path(file["filename"]) for file in _dataset(path).cache_files]
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{path} holds neither Parquet files nor a dataset that was saved to disk.")
    return files


def _saved(path: Path) -> bool:
    return (path / "state.json").is_file()


def _parquet(file: Path) -> Any:
    """A Parquet file that is open; its columns are known, its rows are not read yet."""
    try:
        import pyarrow.parquet
    except ImportError as missing:
        raise _lacking(file) from missing
    try:
        opened = pyarrow.parquet.ParquetFile(file, page_checksum_verification=True)
        names = opened.schema_arrow.names
    except _foreign() as reason:
        raise _unreadable(file, "Parquet", reason) from reason
    one_by_one(names, file)
    return opened


def _dataset(path: Path) -> Any:
    try:
        import datasets
    except ImportError as missing:
        raise _lacking(path) from missing
    try:
        return datasets.load_from_disk(str(path))
    except _foreign() as reason:
        raise _unreadable(path, "a saved dataset", reason) from reason


def _foreign() -> tuple[type[Exception], ...]:
    """What pyarrow and datasets raise of files that are not what they say."""
    import pyarrow

    plain = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
    return (pyarrow.ArrowException, *plain)


def _lacking(path: Path) -> DataError:
    return DataError(f"{path}: reading it needs pyarrow: pip install 'limbeck[data]'.")


def _unreadable(path: Path, kind: str, reason: Exception) -> DataError:
    told = f"{type(reason).__name__}: {' '.join(str(reason).split())[:300]}"
    return DataError(f"{path}: cannot be read as {kind} ({told}). Copy or write it again.")


def _columns(path: Path, wanted: Sequence[str], found: Sequence[str]) -> list[str]:
    """Those that are wanted; an error where one is missing."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)}; it has {', '.join(found)}. "
            "Give the folder that the other tool wrote."
        )
    return list(wanted)
