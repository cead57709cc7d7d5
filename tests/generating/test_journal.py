"""A journal: what is durable is read back, a torn end is cut off, and a changed byte never passes."""

import asyncio
import os

import pytest

from limbeck.errors import Damaged, LimbeckError
from limbeck.generating import journal
from limbeck.generating.journal import Journal
from limbeck.sampling.answers import Answer
from limbeck.sampling.secret import Secret


def filled(path):
    book = Journal(path, journal.read(path), Secret())

    async def all_at_once():
        await asyncio.gather(*(book.put(journal.sent(f"{n}", 2.0)) for n in range(4)))
        await book.put(journal.answered("0", 1.5, Answer("Höhe\u2028\n", "", "stop", 3, 4)))
        await book.put(journal.lost("1", 2.0, "reset"))
        await book.put(journal.failed("1", "reset"))

    asyncio.run(all_at_once())
    book.close()
    return path.read_bytes()


def test_what_was_put_is_read(tmp_path):
    path = tmp_path / "journal.jsonl"
    filled(path)
    told = journal.read(path)
    assert told.answers == {"0": Answer("Höhe\u2028\n", "", "stop", 3, 4)}
    assert (told.failed, told.open, told.spent) == ({"1": "reset"}, {"2": 2.0, "3": 2.0}, 3.5)
    assert told.size == path.stat().st_size


def test_a_journal_cut_anywhere_tells_whole_lines_only(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = filled(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        told = journal.read(path)
        assert told.size + told.torn == length
        assert told.size == whole.rfind(b"\n", 0, length) + 1
    Journal(path, told, Secret()).close()
    assert path.stat().st_size == told.size


def test_a_changed_byte_is_refused_with_its_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    whole = filled(path)
    for place in range(0, len(whole) - 1, 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Damaged, match=r"journal\.jsonl:\d+"):
            journal.read(path)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    book = Journal(path, journal.read(path), Secret())
    book.put_now(journal.failed("a", "x"))
    write = os.write

    def full(handle, raw):
        if len(raw) < 100:
            raise OSError(28, "No space left on device")
        return write(handle, raw[:60])

    monkeypatch.setattr(journal.os, "write", full)
    with pytest.raises(LimbeckError, match="No space left"):
        book.put_now(journal.failed("b", "y"))
    monkeypatch.undo()
    # Nobody who waited for the same piece takes it for written.
    with pytest.raises(LimbeckError, match="No space left"):
        asyncio.run(book.put(journal.failed("c", "z")))
    book.close()
    assert journal.read(path).failed == {"a": "x"}
