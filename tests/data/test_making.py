"""Parts end in the bytes that one process writes, whoever makes them, in whatever order, and however often it is stopped."""

import contextlib
import gzip
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny_chat
import tiny_folder
import tiny_text

from limbeck.data import making, parts, planes, sieve
from limbeck.data.inputs import inputs
from limbeck.data.prepare import Reading, prepare
from limbeck.errors import DataError, LimbeckError

TOKENIZER = tiny_text.tokenizer()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Files of every kind, some of them bad in places, of which the first makes many parts."""
    monkeypatch.setattr(parts, "SMALLEST", 8000)
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [json.dumps({"text": text}) + "\n" for text in tiny_folder.sentences(600, seed=1)]
    for bad in (3, 200, 201, 599):
        lines[bad] = "not json\n"
    lines[7] = '{"text": ""}\n'
    (folder / "a.jsonl").write_text("".join(lines))
    for n in range(9):
        (folder / f"b{n}.jsonl").write_text("".join(lines[20 * n : 20 * n + 12]))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    (folder / "d.txt").write_text("Drop by drop. " * 900)
    return folder


def prepared(corpus, into="out", hostile="quarantine", **given):
    reading = Reading(hostile=hostile)
    return prepare(TOKENIZER, corpus, corpus.parent / into, reading=reading, **given).folder


@pytest.fixture
def whole(corpus, monkeypatch):
    """What one process makes of all of it at once."""
    with monkeypatch.context() as patch:
        patch.setattr(parts, "SMALLEST", 1 << 30)
        return tiny_folder.contents(prepared(corpus, "whole"))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_writes_the_bytes_of_one_process(corpus, whole, workers):
    assert len(parts.parted(making.Inputs(files=tuple(sorted(corpus.iterdir()))))) > 8
    folder = prepared(corpus, workers=workers)
    assert tiny_folder.contents(folder) == whole
    assert len(whole["quarantine.jsonl"].splitlines()) == 9
    assert list((corpus.parent / "out").iterdir()) == [folder]


@dataclass(frozen=True)
class Rewriting:
    """Work during which somebody writes another text over the one that is read."""

    path: Path
    name: str = "a text"

    @contextlib.contextmanager
    def opened(self, _characters):
        def fill(folder, _found, _advance):
            self.path.write_text(self.path.read_text().replace("light", "heavy!"))
            planes.write_counts(folder, {"documents": 1, "tokens": 1, "quarantined": 0})

        yield fill

    def check(self, _folder):
        pass


@pytest.mark.parametrize("smallest", [1 << 30, 8000])
def test_what_is_read_of_a_text_that_changes_is_not_kept(corpus, monkeypatch, smallest):
    monkeypatch.setattr(parts, "SMALLEST", smallest)
    found = inputs(corpus)
    some = parts.parted(found)
    work = Rewriting(corpus / "a.jsonl")
    with pytest.raises(DataError, match=r"a\.jsonl: changed while it was read"):
        making.made(corpus.parent / "out", {"text": found.identity()}, lambda: (work, some))
    assert not list((corpus.parent / "out").rglob("counts.json"))


def test_parquet_is_prepared_in_parts_as_well(tmp_path, monkeypatch):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    texts = tiny_folder.sentences(500, seed=2)
    texts[250] = None
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": texts}), path, row_group_size=50)
    one = prepare(TOKENIZER, path, tmp_path / "one", reading=Reading(hostile="quarantine"))
    monkeypatch.setattr(parts, "SMALLEST", 5000)
    many = prepare(
        TOKENIZER, path, tmp_path / "many", reading=Reading(hostile="quarantine"), workers=2
    )
    assert tiny_folder.contents(many.folder) == tiny_folder.contents(one.folder)
    assert json.loads((many.folder / "quarantine.jsonl").read_text())["line"] == 251


def test_conversations_are_prepared_in_parts_as_well(tmp_path, monkeypatch):
    """Rows that are refused when they are read, and when they are encoded, are listed in their order."""
    said = zip(*[iter(tiny_folder.sentences(800, seed=1))] * 2, strict=True)
    rows = [tiny_chat.messages(one, two) for one, two in said]
    long = tiny_chat.messages("a " * 300, "b")
    rows[40:40] = [long, {"body": "b"}, long, {"body": "c"}]
    rows[-3:-3] = [long, {"body": "d"}]
    told = {"hostile": "quarantine", "too_long": "error", "length": 200}
    tiny_chat.source(tmp_path, rows, **told)
    one = tiny_folder.contents(tmp_path / "prepared")
    shutil.rmtree(tmp_path / "prepared")
    (name,) = (key for key in one if key.endswith("quarantine.jsonl"))
    assert [json.loads(line)["line"] for line in one[name].splitlines()] == [
        41,
        42,
        43,
        44,
        402,
        403,
    ]
    monkeypatch.setattr(parts, "SMALLEST", 10_000)
    for workers in (1, 2):
        tiny_chat.source(tmp_path, rows, workers=workers, **told)
        assert tiny_folder.contents(tmp_path / "prepared") == one
        shutil.rmtree(tmp_path / "prepared")


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_bad_row_is_told_whoever_finds_another(corpus, workers):
    with pytest.raises(DataError, match=r"a\.jsonl:4: "):
        prepared(corpus, hostile="stop", workers=workers)
    lines = (corpus / "a.jsonl").read_text().splitlines(keepends=True)
    lines[3] = '{"text": "Mended."}\n'
    (corpus / "a.jsonl").write_text("".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl:201: "):
        prepared(corpus, hostile="stop", workers=workers)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("most", [2, 5, 8])
def test_no_more_rows_are_refused_in_all_parts_than_in_one_text(corpus, monkeypatch, most, workers):
    monkeypatch.setattr(sieve, "MOST_QUARANTINED", most)
    found = []
    for smallest in (1 << 30, 8000):
        monkeypatch.setattr(parts, "SMALLEST", smallest)
        with pytest.raises(DataError, match="this one because") as reason:
            prepared(corpus, workers=workers)
        found.append(str(reason.value))
    assert found[0] == found[1]


def test_text_without_a_token_is_refused_after_all_parts(corpus, monkeypatch):
    for path in corpus.iterdir():
        path.unlink()
    (corpus / "a.jsonl").write_text('{"text": ""}\n' * 2000)
    with pytest.raises(DataError, match=r"no document with any token in it \(2,000 empty"):
        prepared(corpus)


def stopped(corpus, monkeypatch, after):
    """Parts that are left where the work stops in the process itself."""
    true, seen = making.Task.carried_out, []

    def carried_out(task, fill, advance):
        if len(seen) == after:
            raise KeyboardInterrupt
        seen.append(task)
        true(task, fill, advance)

    with monkeypatch.context() as patch:
        patch.setattr(making.Task, "carried_out", carried_out)
        with pytest.raises(KeyboardInterrupt):
            prepared(corpus)
    (place,) = (corpus.parent / "out").glob("*.parts")
    return place


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_whole_is_not_made_again(corpus, whole, monkeypatch, workers, capsys):
    place = stopped(corpus, monkeypatch, 3)
    assert sorted(path.name for path in place.iterdir()) == [".lock", "00000", "00001", "00002"]
    (place / ".partial-1-00000000-00003").mkdir()
    assert tiny_folder.contents(prepared(corpus, workers=workers)) == whole
    assert "3 of" in capsys.readouterr().err
    assert not place.exists()


def test_a_part_that_is_damaged_or_of_another_cut_is_made_again(corpus, whole, monkeypatch):
    place = stopped(corpus, monkeypatch, 3)
    raw = bytearray((place / "00000/ids.bin").read_bytes())
    raw[9] ^= 1
    (place / "00000/ids.bin").write_bytes(raw)
    shutil.rmtree(place / "00001")
    (place / "00002").rename(place / "00001")
    assert tiny_folder.contents(prepared(corpus)) == whole


def test_parts_that_a_killed_process_left_beside_the_whole_are_removed(corpus):
    folder = prepared(corpus)
    place = folder.with_name(f"{folder.name}.parts")
    (place / "00000").mkdir(parents=True)
    assert prepared(corpus) == folder
    assert not place.exists()


def test_a_worker_that_the_system_ends_is_told_and_its_work_is_taken_up(corpus, whole):
    def end():
        while not (there := multiprocessing.active_children()):
            time.sleep(0.001)
        os.kill(there[0].pid, signal.SIGKILL)

    ending = threading.Thread(target=end)
    ending.start()
    with pytest.raises(LimbeckError, match=r"SIGKILL.*same command"):
        prepared(corpus, workers=2)
    ending.join()
    assert not multiprocessing.active_children()
    assert tiny_folder.contents(prepared(corpus, workers=2)) == whole


def test_max_documents_are_read_by_one(corpus):
    reading = Reading(hostile="quarantine", max_documents=200)
    found = prepare(TOKENIZER, corpus, corpus.parent / "out", reading=reading, workers=2)
    assert found.about["counts"]["kept"] == 200
