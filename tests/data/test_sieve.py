"""A Sieve counts what it refuses and says why."""

import json

import pytest

from limbeck.data import sieve as module
from limbeck.data.sieve import Sieve, unusable
from limbeck.errors import DataError


def test_without_a_quarantine_the_first_bad_row_stops():
    with pytest.raises(
        DataError, match=r"^a\.jsonl:3: an empty line\. Mend the file, or set hostile"
    ):
        Sieve().refuse("a.jsonl", 3, "an empty line")


def test_refused_rows_are_listed_in_order(tmp_path):
    sieve = Sieve(tmp_path / "new" / "aside.jsonl")
    sieve.refuse("a.jsonl", 3, 'a "quoted"\nreason')
    sieve.refuse("b.jsonl", 1, "é \ud800")
    sieve.close()
    listed = [json.loads(line) for line in sieve.quarantine.read_bytes().splitlines()]
    assert [(row["file"], row["line"]) for row in listed] == [("a.jsonl", 3), ("b.jsonl", 1)]
    assert sieve.quarantined == 2


def test_a_file_of_another_format_does_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_QUARANTINED", 2)
    sieve = Sieve(tmp_path / "aside.jsonl")
    sieve.refuse("a", 1, "x")
    sieve.refuse("a", 2, "x")
    with pytest.raises(DataError, match="more than 2 rows were refused"):
        sieve.refuse("a", 3, "x")
    sieve.close()


def test_what_no_tokenizer_takes_is_told():
    assert unusable("fine \u2028 \ufeff \U0001f600") == ""
    assert unusable("ab\0") == "a NUL character at offset 2 of the text"
    assert unusable("a\udfff") == "a lone surrogate U+DFFF at offset 1"


def test_bytes_are_decoded_strictly():
    assert Sieve().decoded("é".encode()) == ("é", "")
    assert Sieve().decoded(b"a\xff") == (
        "",
        "not UTF-8 (byte 0xff at offset 1: invalid start byte)",
    )
    assert Sieve(max_bytes=3).decoded(b"abcd") == ("", "4 bytes, more than 3")
