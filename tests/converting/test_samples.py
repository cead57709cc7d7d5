"""Tables are read from what other tools leave."""

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from limbeck.converting.samples import columns_of, files_of, lines
from limbeck.errors import DataError

ROWS = {"a": [[1, 2], [3]], "b": [[[1, 2], [3, 4]], [[5, 6]]], "c": [[[1], [2, 3]], [[4]]]}


def parquet(folder, rows):
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "x.parquet")
    return folder


def saved(folder, rows):
    datasets.Dataset(pyarrow.table(rows)).save_to_disk(str(folder / "x"))
    return folder / "x"


def first(folder, name, values, kind=None):
    """The only row of a table of one column."""
    (line,) = lines(parquet(folder, {name: pyarrow.array(values, kind)}), [name])
    return line


@pytest.mark.parametrize("write", [parquet, saved])
def test_lists_become_arrays(tmp_path, write):
    one, other = lines(write(tmp_path, ROWS), ["a", "b"])
    assert other.flat("a").tolist() == [3]
    assert one.square("b").tolist() == [[1, 2], [3, 4]]
    assert other.numbers("b").tolist() == [[5.0, 6.0]]
    assert (one.where[-5:], other.where[-5:]) == ("row 1", "row 2")


@pytest.mark.parametrize("write", [parquet, saved])
def test_rows_are_counted_over_the_whole_file(tmp_path, write):
    place = write(tmp_path, {"a": [[number] for number in range(40)]})
    assert [line.where.rpartition(" ")[2] for line in lines(place, ["a"])] == [
        str(number + 1) for number in range(40)
    ]
    assert [int(line.flat("a")[0]) for line in lines(place, ["a"])] == list(range(40))


def test_lists_of_different_length_are_refused(tmp_path):
    line, _ = lines(parquet(tmp_path, ROWS), ["c"])
    with pytest.raises(DataError, match="row 1, column c: lists of 1 and of 2 numbers"):
        line.square("c")


@pytest.mark.parametrize("write", [parquet, saved])
def test_all_columns_are_told(tmp_path, write):
    assert columns_of(write(tmp_path, ROWS)) == ["a", "b", "c"]


def test_a_file_without_rows_has_columns(tmp_path):
    place = parquet(tmp_path, {"a": pyarrow.array([], "int64")})
    assert columns_of(place) == ["a"]
    assert list(lines(place, ["a"])) == []


def test_a_missing_column_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(DataError, match="no column d; it has a, b, c"):
        list(lines(parquet(tmp_path, ROWS), ["a", "d"]))


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_place_without_a_table_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="neither"):
        list(lines(tmp_path / name, []))


def test_a_sample_of_no_place_has_a_shape(tmp_path):
    lists = pyarrow.list_(pyarrow.list_(pyarrow.int64()))
    one, other = lines(parquet(tmp_path, {"b": pyarrow.array([[], [[]]], lists)}), ["b"])
    assert one.square("b").shape == one.numbers("b").shape == (0, 0)
    assert other.square("b").shape == (1, 0)


@pytest.mark.parametrize(
    "kind",
    [
        pyarrow.large_list(pyarrow.large_list(pyarrow.int32())),
        pyarrow.list_(pyarrow.list_(pyarrow.uint64(), 2)),
        pyarrow.list_(pyarrow.list_(pyarrow.float64())),
    ],
    ids=str,
)
def test_lists_of_every_kind_are_read(tmp_path, kind):
    line = first(tmp_path, "a", [[[1, 2], [3, 4]]], kind)
    assert line.square("a").tolist() == line.numbers("a").tolist() == [[1, 2], [3, 4]]


WRONG = {
    "no list": (5, "int64 found; wanted lists"),
    "text": ("x", "string found; wanted lists"),
    "a flat list": ([5], r"list<element: int64> found; wanted lists"),
    "lists of text": ([["x"]], "string>> found; wanted lists"),
    "null": (None, "found; wanted"),
    "a null list": ([[1], None], "null found at 1 places; wanted a list at each"),
    "a null number": ([[1, None]], "1 of its numbers are null; wanted whole ones"),
    "half a number": ([[1, 0.5]], "0.5 found; wanted whole numbers"),
    "no number": ([[np.nan]], "nan found; wanted whole numbers"),
    "more than 62 bits": ([[1e30]], r"1e\+30 found; wanted whole numbers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_column_is_refused_by_file_row_and_name(tmp_path, name):
    value, told = WRONG[name]
    line = first(tmp_path, "ids", [value])
    with pytest.raises(DataError, match=rf"x\.parquet, row 1, column ids: .*{told}"):
        line.square("ids")


def test_a_null_list_among_lists_is_refused(tmp_path):
    _, line = lines(parquet(tmp_path, {"a": [[1], None]}), ["a"])
    with pytest.raises(DataError, match="row 2, column a: null found; wanted a list"):
        line.flat("a")


def test_a_number_that_is_null_is_none(tmp_path):
    assert np.isnan(first(tmp_path, "a", [[[None, 1.0]]]).numbers("a")).tolist() == [[True, False]]


@pytest.mark.parametrize("size", [0, 10, 0.5, -3])
def test_a_file_that_was_cut_is_refused_by_name(tmp_path, size):
    place = parquet(tmp_path, ROWS) / "x.parquet"
    raw = place.read_bytes()
    place.write_bytes(raw[: int(size * len(raw)) if size == 0.5 else size])
    for read in (columns_of, lambda path: list(lines(path, ["a"]))):
        with pytest.raises(DataError, match=r"x\.parquet: cannot be read as Parquet"):
            read(tmp_path)


def refusal(place):
    """What reading all of it is refused with; "" where nothing is wrong."""
    try:
        for line in lines(place, columns_of(place)):
            line.flat("a"), line.square("b")
    except DataError as reason:
        return str(reason)
    return ""


@pytest.mark.parametrize("write", [parquet, saved])
def test_a_flipped_byte_is_read_or_refused_by_name(tmp_path, write):
    place = write(tmp_path, {name: ROWS[name] for name in "ab"})
    file, told = files_of(place)[0], []
    raw = file.read_bytes()
    for number in range(0, len(raw), 7):
        file.write_bytes(raw[:number] + bytes([raw[number] ^ 0xFF]) + raw[number + 1 :])
        told.append(refusal(place))
    assert any(told)
    assert all(str(place) in one for one in told if one)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"_data_files": 5}'])
def test_a_saved_dataset_that_is_damaged_is_refused_by_name(tmp_path, text):
    place = saved(tmp_path, ROWS)
    (place / "state.json").write_text(text)
    for read in (columns_of, files_of, lambda path: list(lines(path, ["a"]))):
        with pytest.raises(DataError, match="x: cannot be read as a saved dataset"):
            read(place)
