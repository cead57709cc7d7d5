"""Rows in are rows kept or quarantined, and whatever is refused is named."""

import gzip
import json
import re
import tracemalloc
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import tiny_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.data.documents import read, sieved
from limbeck.data.inputs import Inputs
from limbeck.data.sieve import Sieve
from limbeck.errors import DataError

HOSTILE = {
    "not UTF-8": b'{"text": "\xff"}',
    "cut character": b'{"text": "\xe2\x82"}',
    "overlong": b'{"text": "\xc0\xaf"}',
    "surrogate bytes": b'{"text": "\xed\xa0\x80"}',
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "BOM": b'\xef\xbb\xbf{"text": "a"}',
    "NUL byte": b'{"text": "a\x00b"}',
    "NUL escape": b'{"text": "a\\u0000b"}',
    "lone surrogate": b'{"text": "a\\ud800"}',
    "reversed surrogates": b'{"text": "\\udc00\\ud800"}',
    "control character": b'{"text": "a\x01b"}',
    "NaN": b'{"text": "a", "score": NaN}',
    "Infinity": b'{"text": "a", "score": -Infinity}',
    "too large": b'{"text": "a", "score": 1e400}',
    "long integer": b'{"text": "a", "n": ' + b"7" * 5000 + b"}",
    "twice": b'{"text": "a", "text": "b"}',
    "twice inside": b'{"text": "a", "meta": {"k": 1, "k": 2}}',
    "deep": b'{"text": "a", "deep": ' + b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "missing": b'{"body": "a"}',
    "null": b'{"text": null}',
    "number": b'{"text": 3}',
    "list": b'["text"]',
    "string": b'"text"',
    "empty line": b"",
    "spaces": b"   ",
    "cut": b'{"text": "a',
    "two objects": b'{"text": "a"}{"text": "b"}',
    "single quotes": b"{'text': 'a'}",
    "comment": b'{"text": "a"} // no',
    "binary": bytes(range(128, 256)),
    "hostile key": b'{"' + b"k" * 100_000 + b'": 1}',
}


def jsonl(tmp_path, *lines):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_stops_with_its_place(tmp_path, name):
    path = jsonl(tmp_path, b'{"text": "good"}', HOSTILE[name], b'{"text": "after"}')
    rows = read(path)
    assert next(rows).text == "good"
    with pytest.raises(DataError, match=f"^{re.escape(str(path))}:2: ") as caught:
        next(rows)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_goes_to_quarantine_and_its_neighbours_stay(tmp_path, name):
    path = jsonl(tmp_path, b'{"text": "good"}', HOSTILE[name], b'{"text": "after"}')
    aside = tmp_path / "aside.jsonl"
    rows = list(read(path, hostile="quarantine", quarantine=aside))
    assert [row.text for row in rows] == ["good", "after"]
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:3"]
    (refused,) = map(json.loads, aside.read_text().splitlines())
    assert (refused["file"], refused["line"]) == (str(path), 2)
    assert refused["reason"]


lines = st.one_of(
    st.sampled_from(list(HOSTILE.values())),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")).map(
        lambda text: json.dumps({"text": text}, ensure_ascii=False).encode()
    ),
    st.binary(max_size=30).map(lambda raw: raw.replace(b"\n", b"")),
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(lines, min_size=1, max_size=12), ended=st.booleans(), packed=st.booleans())
def test_rows_in_are_rows_kept_and_quarantined(tmp_path, rows, ended, packed):
    raw = b"\n".join(rows) + (b"\n" if ended or not rows[-1] else b"")
    path = tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl")
    path.write_bytes(gzip.compress(raw, 1) if packed else raw)
    aside = tmp_path / "aside.jsonl"
    aside.unlink(missing_ok=True)
    sieve = Sieve(aside)
    kept = list(sieved(Inputs((path,)), sieve, field="text", split="train", split_at=None))
    assert sieve.kept == len(kept)
    assert sieve.kept + sieve.quarantined == len(rows)
    assert len(aside.read_text().splitlines() if aside.exists() else []) == sieve.quarantined


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), max_size=6))
def test_good_text_comes_back_as_it_was(tmp_path, texts):
    texts = [text.replace("\0", "") for text in texts]
    rows = [json.dumps({"text": text}, ensure_ascii=False).encode() + b"\r\n" for text in texts]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(rows))
    assert [document.text for document in read(path)] == texts


def test_line_separators_of_unicode_do_not_break_a_row(tmp_path):
    text = "a\u2028b\u0085c\x0bd\u2029e"
    path = jsonl(
        tmp_path, json.dumps({"text": text}, ensure_ascii=False).encode().replace(b"\x0b", b"")
    )
    assert [row.text for row in read(path)] == [text]


def test_a_last_line_without_an_ending_counts(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "b"}')
    assert [row.text for row in read(path)] == ["a", "b"]


@pytest.mark.parametrize("ended", [b"", b"\n"])
@pytest.mark.parametrize("over", [-1, 0, 1, 2, 3, 500])
def test_the_longest_line_is_exact(tmp_path, over, ended):
    line = b'{"text": "' + b"a" * 200 + b'"}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line + ended)
    rows = read(path, max_bytes=len(line) - over)
    if over <= 0:
        assert len(next(rows).text) == 200
    else:
        with pytest.raises(DataError, match=rf":1: a line of {len(line)} bytes, more than"):
            next(rows)


def test_a_line_far_over_the_limit_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.truncate(1 << 28)  # sparse: zeros that take no disk
        stream.seek(0, 2)
        stream.write(b'\n{"text": "after"}\n')
    aside = tmp_path / "aside.jsonl"
    tracemalloc.start()
    rows = list(read(path, hostile="quarantine", quarantine=aside, max_bytes=1_000_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [row.text for row in rows] == ["after"]
    assert "268,435,456 bytes" in json.loads(aside.read_text())["reason"]
    assert peak < 10_000_000


def test_another_field_can_be_read(tmp_path):
    path = jsonl(tmp_path, b'{"page": "p", "text": 1}')
    assert [row.text for row in read(path, field="page")] == ["p"]


def test_a_missing_field_names_those_there_are(tmp_path):
    path = jsonl(tmp_path, b'{"page": "p"}')
    with pytest.raises(DataError, match=r"no field 'text' \(it has: 'page'\)"):
        list(read(path))


def test_quarantine_without_a_file_is_refused():
    with pytest.raises(DataError, match="needs a file"):
        read("rows.jsonl", hostile="quarantine")


@pytest.mark.parametrize("cut", [5, 30, -1])
def test_a_cut_gzip_file_is_an_error_even_in_quarantine(tmp_path, cut):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:cut])
    with pytest.raises(DataError, match="damaged or cut off"):
        list(read(path, hostile="quarantine", quarantine=tmp_path / "aside.jsonl"))


def test_a_text_file_is_one_document_to_the_byte(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("one\r\ntwo\n\nthrée".encode())
    assert [row.text for row in read(path)] == ["one\r\ntwo\n\nthrée"]


def test_headings_begin_documents_and_stay_in_them(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(" \n = One = \n a\n = = Part = = \n b\n = Two = \n c\n")
    rows = list(read(path, split_at="^ = [^=]+ = $"))
    assert [row.text for row in rows] == [
        " \n",
        " = One = \n a\n = = Part = = \n b\n",
        " = Two = \n c\n",
    ]
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:2", f"{path}:6"]


def test_a_captured_mark_is_dropped(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\n<|end|>\ntwo\n<|end|>\n<|end|>\nthree\n<|end|>\n")
    assert [row.text for row in read(path, split_at=r"^(<\|end\|>)$")] == [
        "one\n",
        "two\n",
        "three\n",
    ]


def test_only_the_hostile_part_of_a_text_file_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"# one\nfine\n# two\n\xff\xfe\n# three\nnul \x00\n# four\nfine\n# fi\xffve\n")
    aside = tmp_path / "aside.jsonl"
    rows = list(read(path, split_at="^(# .*)$", hostile="quarantine", quarantine=aside))
    assert [row.text for row in rows] == ["fine\n", "fine\n"]
    assert [json.loads(line)["line"] for line in aside.read_text().splitlines()] == [3, 5]


def test_a_text_document_over_the_limit_is_refused_and_the_next_kept(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("# one\n" + "long line of words\n" * 50 + "# two\nfine\n")
    aside = tmp_path / "aside.jsonl"
    rows = list(read(path, split_at="^#", hostile="quarantine", quarantine=aside, max_bytes=100))
    assert [row.text for row in rows] == ["# two\nfine\n"]
    assert "956 bytes" in aside.read_text()


def test_a_bad_pattern_is_refused_at_once(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    with pytest.raises(DataError, match="not a regular expression"):
        read(path, split_at="(")


def parquet(path, column):
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
    return path


@pytest.mark.parametrize("kind", [pyarrow.string(), pyarrow.large_string()])
def test_parquet_rows_are_read_and_a_null_is_named(tmp_path, kind):
    path = parquet(tmp_path / "a.parquet", pyarrow.array(["a", None, "é"], kind))
    aside = tmp_path / "aside.jsonl"
    rows = list(read(path, hostile="quarantine", quarantine=aside))
    assert [row.text for row in rows] == ["a", "é"]
    assert json.loads(aside.read_text()) == {"file": str(path), "line": 2, "reason": "null"}


def test_parquet_text_that_is_not_utf8_spoils_its_row_only(tmp_path):
    raw = pyarrow.array([b"a", b"\xff", b"b\x00", b"c"], pyarrow.binary())
    column = pyarrow.Array.from_buffers(pyarrow.string(), 4, raw.buffers())
    path = parquet(tmp_path / "a.parquet", column)
    rows = list(read(path, hostile="quarantine", quarantine=tmp_path / "aside.jsonl"))
    assert [row.where for row in rows] == [f"{path}:1", f"{path}:4"]


def test_a_parquet_column_of_numbers_or_another_name_is_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", pyarrow.array([1, 2]))
    with pytest.raises(DataError, match="holds int64, not strings"):
        list(read(path))
    with pytest.raises(DataError, match=r"no column 'body'\. It has: 'text'"):
        list(read(path, field="body"))


def test_a_parquet_file_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but not really" * 10)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        list(read(path))


def test_a_saved_dataset_is_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": ["a", None, "b"]})
    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "set")
    rows = list(read(tmp_path / "set", hostile="quarantine", quarantine=tmp_path / "aside.jsonl"))
    assert [row.text for row in rows] == ["a", "b"]
    with pytest.raises(DataError, match="no column 'body'"):
        list(read(tmp_path / "set", field="body"))


def test_wikitext_divides_into_its_articles_without_losing_a_byte():
    path = tiny_text.shared("wikitext2/test.raw.txt")
    rows = [row.text for row in read(path, split_at="^ = [^=]+ = $")]
    assert "".join(rows).encode() == Path(path).read_bytes()
    assert 55 <= len(rows) <= 70
    assert rows[1].startswith(" = Robert Boulter = \n")
