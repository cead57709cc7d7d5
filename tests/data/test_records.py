"""Rows of JSON, JSONL, Parquet and datasets are read alike, and each that cannot be read is named or set aside."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from limbeck.data import records as module
from limbeck.data.inputs import ROWS, inputs
from limbeck.data.records import records
from limbeck.data.sieve import Sieve
from limbeck.errors import DataError

GIVEN = [
    {"prompt": "Wärme \u2028 <|im_end|>?", "n": 1, "turns": [{"role": "user", "weight": None}]},
    {"prompt": "", "n": 2, "turns": []},
]


def read(path, sieve=None):
    sieve = sieve or Sieve()
    found = list(records(inputs(path, kinds=ROWS), sieve, split="train"))
    sieve.close()
    return found


def written(tmp_path, kind):
    path = tmp_path / f"rows{kind}"
    text = "".join(json.dumps(row) + "\n" for row in GIVEN)
    if kind == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(GIVEN), path)
    elif kind == ".jsonl.gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(json.dumps(GIVEN, indent=1) if kind == ".json" else text)
    return path


@pytest.mark.parametrize("kind", ROWS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = written(tmp_path, kind)
    found = read(path)
    assert [one.row for one in found] == GIVEN
    assert [one.where for one in found] == [f"{path}:1", f"{path}:2"]


def test_lines_of_json_may_be_called_json(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in GIVEN))
    assert [one.row for one in read(path)] == GIVEN


def test_a_saved_dataset_gives_its_rows(tmp_path):
    datasets.Dataset.from_list(GIVEN).save_to_disk(tmp_path / "saved")
    assert [one.row for one in read(tmp_path / "saved")] == GIVEN


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b"[1]", "not an object"),
        (b"\xff", "UTF-8|utf-8"),
        (b"", "an empty line"),
        (b'{"a": NaN}', "NaN"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_or_set_aside(tmp_path, line, reason):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"a": 3}\n')
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*({reason})"):
        read(path)
    sieve = Sieve(tmp_path / "aside.jsonl")
    assert [one.row["a"] for one in read(path, sieve)] == [1, 3]
    (aside,) = map(json.loads, (tmp_path / "aside.jsonl").read_text().splitlines())
    assert aside["line"] == 2


def test_an_item_of_an_array_that_is_no_object_is_set_aside_by_its_place(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, 3, {"a": 3}]')
    with pytest.raises(DataError, match=r"rows\.json:2: a JSON int, not an object"):
        read(path)
    sieve = Sieve(tmp_path / "aside.jsonl")
    assert [one.line for one in read(path, sieve)] == [1, 3]


def test_an_array_that_is_cut_off_or_too_large_is_refused_whole(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text('[{"a": 1}, {"a":')
    with pytest.raises(DataError, match="Nothing of an array"):
        read(path)
    monkeypatch.setattr(module, "LARGEST_ARRAY", 5)
    with pytest.raises(DataError, match="one row a line"):
        read(path)


def test_a_cell_that_is_not_unicode_spoils_its_own_row_only(tmp_path):
    path = tmp_path / "rows.parquet"
    raw = pyarrow.array([b"good", b"\xff", b"after"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"text": raw}), path)
    with pytest.raises(DataError, match=r"rows\.parquet:2: not UTF-8"):
        read(path)
    assert [one.row["text"] for one in read(path, Sieve(tmp_path / "aside"))] == ["good", "after"]


def test_a_folder_of_text_does_not_take_settings_for_text(tmp_path):
    written(tmp_path, ".json")
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert [path.name for path in inputs(tmp_path).files] == ["a.jsonl"]
    assert [path.name for path in inputs(tmp_path, kinds=ROWS).files] == ["a.jsonl", "rows.json"]
