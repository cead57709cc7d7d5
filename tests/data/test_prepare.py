"""A prepared folder is the text's ids, keyed by content, whole or absent, and refused when damaged."""

import json

import numpy as np
import pytest
import tiny_text
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data import making, planes
from limbeck.data import prepare as module
from limbeck.data.documents import Document
from limbeck.data.planes import open_prepared
from limbeck.data.prepare import Reading, prepare
from limbeck.data.tokenize import encode
from limbeck.errors import Damaged, DataError

TEXTS = ["One drop.", "", "Two drops \u4e16 <|im_end|>", "Three."]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def test_planes_are_the_encoded_documents(tmp_path, rows):
    tokenizer = tiny_text.tokenizer()
    found = prepare(tokenizer, rows, tmp_path / "out")
    expected = encode(tokenizer, [text for text in TEXTS if text])
    assert len(found.starts) == 4
    for number, (ids, sizes) in enumerate(expected):
        part = slice(found.starts[number], found.starts[number + 1])
        np.testing.assert_array_equal(found.ids[part], ids)
        np.testing.assert_array_equal(found.byte_lengths[part], sizes)
    assert found.about["counts"] == {
        "documents": 3,
        "empty": 1,
        "tokens": len(found.ids),
        "width": 2,
        "kept": 4,
        "quarantined": 0,
    }


@pytest.mark.parametrize("characters", [1, 10, 10_000])
def test_blocks_change_nothing(tmp_path, rows, monkeypatch, characters):
    whole = prepare(tiny_text.tokenizer(), rows, tmp_path / "whole")
    monkeypatch.setattr(making, "BLOCK_CHARACTERS", characters)
    parts = prepare(tiny_text.tokenizer(), rows, tmp_path / "parts")
    assert (whole.folder / "manifest.json").read_bytes() == (
        parts.folder / "manifest.json"
    ).read_bytes()


def test_a_second_time_nothing_is_written(tmp_path, rows):
    first = prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    stamp = (first.folder / "ids.bin").stat().st_mtime_ns
    again = prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    assert again.folder == first.folder
    assert (again.folder / "ids.bin").stat().st_mtime_ns == stamp


def test_the_same_text_elsewhere_has_the_same_key(tmp_path, rows):
    first = prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    moved = tmp_path / "elsewhere" / "other.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(rows.read_bytes())
    assert prepare(tiny_text.tokenizer(), moved, tmp_path / "out").folder == first.folder


def test_other_text_tokenizer_or_options_have_another_key(tmp_path, rows):
    out = tmp_path / "out"
    folders = [prepare(tiny_text.tokenizer(), rows, out).folder]
    folders.append(prepare(tiny_text.tokenizer(300), rows, out).folder)
    folders.append(
        prepare(tiny_text.tokenizer(), rows, out, reading=Reading(max_documents=1)).folder
    )
    rows.write_text(rows.read_text() + '{"text": "Four."}\n')
    folders.append(prepare(tiny_text.tokenizer(), rows, out).folder)
    assert len(set(folders)) == 4


def test_documents_can_be_limited(tmp_path, rows):
    found = prepare(tiny_text.tokenizer(), rows, tmp_path / "out", reading=Reading(max_documents=1))
    assert found.about["counts"]["documents"] == 1


def test_ids_beyond_sixteen_bits_get_four_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a b a")
    for largest, width in ((65_535, np.uint16), (65_536, np.uint32)):
        backend = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": largest}, unk_token="?"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
        found = prepare(tokenizer, path, tmp_path / "out")
        assert found.ids.dtype == width
        assert found.ids.tolist() == [1, largest, 1]


@pytest.mark.parametrize("value", [-1, 1 << 16, 1 << 40])
def test_a_number_out_of_range_is_refused_not_wrapped(tmp_path, value):
    block = [Document("a", "a.txt:1"), Document("", "a.txt:2"), Document("b c", "a.txt:3")]
    values, counts = np.array([1, 2, value]), np.array([1, 0, 2])
    with (
        (tmp_path / "x").open("wb") as stream,
        pytest.raises(DataError, match=r"a\.txt:3: holds .* uint16 takes 0 to 65,535"),
    ):
        planes._put(stream, values, np.dtype("<u2"), block, counts)


def test_a_hostile_row_leaves_nothing_behind(tmp_path, rows):
    rows.write_text(rows.read_text() + "not json\n")
    with pytest.raises(DataError, match=r"rows\.jsonl:5: "):
        prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_quarantined_rows_are_listed_in_the_folder(tmp_path, rows):
    rows.write_text(rows.read_text() + "not json\n")
    reading = Reading(hostile="quarantine")
    found = prepare(tiny_text.tokenizer(), rows, tmp_path / "out", reading=reading)
    assert found.about["counts"]["kept"] == 4
    assert found.about["counts"]["quarantined"] == 1
    (refused,) = (found.folder / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(refused)["line"] == 5


def test_text_without_a_token_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": ""}\n')
    with pytest.raises(DataError, match="no document with any token"):
        prepare(tiny_text.tokenizer(), path, tmp_path / "out")


@pytest.mark.parametrize("name", ["ids.bin", "bytes.bin", "starts.bin", "counts.json"])
def test_one_changed_byte_is_refused(tmp_path, rows, name):
    folder = prepare(tiny_text.tokenizer(), rows, tmp_path / "out").folder
    raw = bytearray((folder / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(Damaged, match=name):
        open_prepared(folder)
    with pytest.raises(Damaged, match=name):
        prepare(tiny_text.tokenizer(), rows, tmp_path / "out")


def test_planes_cannot_be_written_to(tmp_path, rows):
    found = prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    with pytest.raises(ValueError, match="read-only"):
        found.ids[0] = 1


def test_two_at_once_end_with_one_folder(tmp_path, rows, monkeypatch):
    # The second comes while the first is writing; its own rename finds the folder there.
    write, inner = module._write, []

    def and_meanwhile(*given):
        monkeypatch.setattr(module, "_write", write)
        monkeypatch.setattr("os.getpid", lambda: 1)
        inner.append(prepare(tiny_text.tokenizer(), rows, tmp_path / "out"))
        return write(*given)

    monkeypatch.setattr(module, "_write", and_meanwhile)
    outer = prepare(tiny_text.tokenizer(), rows, tmp_path / "out")
    assert outer.folder == inner[0].folder
    assert [path.name for path in (tmp_path / "out").iterdir()] == [outer.folder.name]
