"""A text is cut where only the text says so: behind lines, between groups of rows, and nowhere else."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limbeck.data import parts
from limbeck.data.inputs import Inputs, Stretch
from limbeck.data.parts import parted, places
from limbeck.data.records import lines, records, stream_of
from limbeck.data.sieve import Sieve


@pytest.fixture
def small(monkeypatch):
    """Parts of 1,000 bytes."""
    monkeypatch.setattr(parts, "SMALLEST", 1000)
    monkeypatch.setattr(parts, "LARGEST", 1000)


def rows(path, number, begin=0):
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(begin, begin + number)))
    return path


def read(part):
    """Number and 'file:line' of each row."""
    return [(one.row["n"], one.where) for one in records(part, Sieve(), split="train")]


def test_parts_of_lines_are_the_file_with_its_own_line_numbers(tmp_path, small):
    whole = Inputs(files=(rows(tmp_path / "a.jsonl", 1000), rows(tmp_path / "b.jsonl", 300, 1000)))
    found = parted(whole)
    assert len(found) > 8
    assert [one for part in found for one in read(part)] == read(whole)
    assert sum(part.size for part in found) == whole.size
    assert all(part.size < 1500 for part in found)


LINES = st.lists(st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")), max_size=60)


@given(LINES, st.booleans(), st.integers(1, 90))
def test_any_bytes_are_cut_behind_lines(tmp_path_factory, found, ended, size):
    path = tmp_path_factory.mktemp("cut") / "a.jsonl"
    raw = b"\n".join(found) + b"\n" * ended
    path.write_bytes(raw)
    stretches = list(parts._lines(path, len(raw), size))
    seen = []
    for some in stretches:
        with stream_of(path, some) as stream:
            seen += lines(stream, Sieve(), some.before)
    with stream_of(path) as stream:
        assert seen == list(lines(stream, Sieve()))
    assert [some.begin for some in stretches[1:]] == [some.end for some in stretches[:-1]]
    assert all(raw[some.end - 1 : some.end] == b"\n" for some in stretches[:-1])


def test_a_line_longer_than_a_part_stays_whole(tmp_path, small):
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"n": "x" * length}) + "\n" for length in (10, 5000, 10, 10))
    )
    found = parted(Inputs(files=(path,)))
    assert len(found) == 2
    assert [where.rpartition(":")[2] for part in found for _, where in read(part)] == ["1", "2", "3", "4"]  # fmt: skip


def test_small_files_stand_together_and_what_cannot_be_cut_stays_whole(tmp_path, small):
    for n in range(20):
        rows(tmp_path / f"{n:02}.jsonl", 12, 12 * n)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "00.jsonl").read_bytes() * 900))
    (tmp_path / "b.txt").write_text("word\n" * 900)
    files = tuple(sorted(tmp_path.iterdir()))
    found = parted(Inputs(files=files))
    assert [path for part in found for path in part.files] == list(files)
    assert not any(any(part.stretches) for part in found)
    assert [part.files[0].name for part in found if len(part.files) == 1] == ["a.jsonl.gz", "b.txt"]
    assert max(len(part.files) for part in found) > 5


@pytest.mark.parametrize("empty", ["00.jsonl", "03.jsonl", "99.jsonl"])
def test_an_empty_file_stands_anywhere(tmp_path, small, empty):
    for n in (1, 2, 5):
        rows(tmp_path / f"{n:02}.jsonl", 600, 600 * n)
    (tmp_path / empty).write_bytes(b"")
    files = tuple(sorted(tmp_path.iterdir()))
    found = parted(Inputs(files=files))
    assert len(found) > 2
    assert {path for part in found for path in part.files} == set(files)
    assert sum(len(read(part)) for part in found) == 1800


def test_parquet_is_cut_between_groups_of_rows(tmp_path, small):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    table = arrow.table({"n": list(range(3000)), "m": [str(n) for n in range(3000)]})
    parquet.write_table(table, path, row_group_size=100)
    whole = Inputs(files=(path,))
    found = parted(whole)
    assert len(found) > 5
    assert [one for part in found for one in read(part)] == read(whole)
    assert sum(part.size for part in found) == whole.size
    path.write_bytes(b"PAR1" + bytes(4000))
    assert parted(whole) == [whole]


def test_what_is_small_or_not_of_files_is_one_part(tmp_path):
    whole = Inputs(files=(rows(tmp_path / "a.jsonl", 1000),))
    assert parted(whole) == [whole]
    saved = Inputs(files=whole.files, saved=tmp_path)
    assert parted(saved) == [saved]


def test_parts_are_as_many_as_their_limits_allow(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "SMALLEST", 100)
    path = rows(tmp_path / "a.jsonl", 3000)
    whole = Inputs(files=(path,))
    assert 60 <= len(parted(whole)) <= 66
    monkeypatch.setattr(parts, "LARGEST", 200)
    assert len(parted(whole)) > 130


def test_each_part_has_a_place_of_its_own(tmp_path, small):
    whole = Inputs(files=(rows(tmp_path / "a.jsonl", 1000), rows(tmp_path / "b.jsonl", 1000)))
    found = places(parted(whole))
    assert len({json.dumps(one) for one in found}) == len(found)
    assert found[0]["begin"] == 0
    assert Stretch(**found[1]["pieces"][0][1]).begin == found[1]["begin"]
