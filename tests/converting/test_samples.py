"""Tables are read from what other tools leave."""

import pyarrow
import pyarrow.parquet
import pytest

from limbeck.converting import samples
from limbeck.errors import DataError

ROWS = {"a": [[1, 2], [3]], "b": [[[1, 2], [3, 4]], [[5, 6]]], "c": [[[1], [2, 3]], [[4]]]}


@pytest.fixture
def place(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table(ROWS), tmp_path / "x.parquet")
    return tmp_path


def test_lists_become_arrays(place):
    (table,) = samples.tables(place, ["a", "b"])
    assert table.column_names == ["a", "b"]
    assert samples.flat(table, "a", 1).tolist() == [3]
    assert samples.square(table, "b", 0).tolist() == [[1, 2], [3, 4]]
    assert samples.square(table, "b", 1).tolist() == [[5, 6]]


def test_lists_of_different_length_are_refused(place):
    (table,) = samples.tables(place, ["c"])
    with pytest.raises(DataError, match="lists of 1 and of 2 numbers"):
        samples.square(table, "c", 0)


def test_all_columns_are_told(place):
    assert samples.columns_of(place) == ["a", "b", "c"]


def test_a_missing_column_is_refused_with_those_that_there_are(place):
    with pytest.raises(DataError, match="no column d; it has a, b, c"):
        list(samples.tables(place, ["a", "d"]))


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_place_without_a_table_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="neither"):
        list(samples.tables(tmp_path / name, None))


def test_a_sample_of_no_place_has_a_shape(tmp_path):
    lists = pyarrow.list_(pyarrow.list_(pyarrow.int64()))
    table = pyarrow.table({"b": pyarrow.array([[], [[]]], lists)})
    assert samples.square(table, "b", 0).shape == (0, 0)
    assert samples.square(table, "b", 1).shape == (1, 0)
