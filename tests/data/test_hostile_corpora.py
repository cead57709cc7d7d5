"""The hostile corpora together: how many there are, that no two are one, and what of a tokenizer or a recipe is hostile."""

import collections

import hostile
import hostile_files
import hostile_lines
import hostile_places
import hostile_rows
import hostile_tables
import hostile_talks
import pytest
import tiny_chat
import tiny_text

from limbeck.data.templates import template_of
from limbeck.errors import DataError
from limbeck.sources.text import text

CASES = [
    case
    for family in (hostile_lines, hostile_rows, hostile_files, hostile_tables, hostile_places)
    for case in family.CASES
]


def test_there_are_more_than_three_hundred_cases_and_no_two_are_one():
    """Counted are the bytes that are read: one damage in two kinds of file is two, one in two modes is one."""
    whole = [
        (case.source, case.given, tuple(sorted(case.options)), str(case.files)) for case in CASES
    ]
    assert [one for one, count in collections.Counter(whole).items() if count > 1] == []
    talks = {str(talk.row) + talk.does for talk in hostile_talks.TALKS}
    assert len(talks) == len(hostile_talks.TALKS)
    assert len(CASES) + len(talks) + len(hostile_talks.WHOLE) >= 800
    hostile_ones = [case for case in CASES if case.bad or case.whole]
    assert len(hostile_ones) >= 600


def test_every_kind_of_file_and_every_layout_is_among_them():
    names = {name.lower() for case in CASES for name in case.files}
    for ending in (".jsonl", ".jsonl.gz", ".txt", ".txt.gz", ".json", ".parquet"):
        assert any(name.endswith(ending) for name in names), ending
    assert {"text", "chat"} == {case.source for case in CASES}
    rows = b"".join(raw for case in hostile_rows.CASES for raw in case.files.values())
    for key in (b"messages", b"conversations", b"input_ids", b"completion", b"response", b"output"):
        assert rows.count(b'"%s"' % key) > 10, key


def written(tmp_path):
    return tiny_chat.written(tmp_path / "rows.jsonl", hostile.GOOD, hostile.AFTER)


@pytest.mark.parametrize("source", ["text", "chat"])
@pytest.mark.parametrize("mode", ["stop", "quarantine"])
def test_a_tokenizer_without_an_end_of_text_is_refused_until_one_is_named(tmp_path, source, mode):
    tokenizer = tiny_text.tokenizer()
    tokenizer.eos_token = None
    read = {"text": text, "chat": tiny_chat.chat}[source]
    given = {"path": written(tmp_path), "length": 30, "prepared": str(tmp_path / "prepared")}
    with pytest.raises(DataError, match="has no eos token"):
        read(tokenizer, hostile=mode, **given)
    for no in ("", "a b", "no-such-token", "\ud800", "<|im_end|"):
        with pytest.raises(DataError, match="is not one token"):
            read(tokenizer, hostile=mode, separator=no, **given)
    assert read(tokenizer, hostile=mode, separator="<|endoftext|>", **given).rows >= 1


@pytest.mark.parametrize(
    "options",
    [{"a": float("nan")}, {"a": [float("inf")]}, {"a": {1, 2}}, {"a": b"b"}, {"a": "\ud800"}],
    ids=str,
)
def test_options_that_json_has_no_word_for_are_refused(tmp_path, options):
    with pytest.raises(DataError, match=r"template_options: .*Wanted: what JSON has a word for"):
        tiny_chat.source(tmp_path, template_options=options)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [(b"\xff", "cannot be read"), (b"a\0b", "holds a NUL"), (None, "cannot be read")],
    ids=["bad bytes", "NUL", "no file"],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, raw, reason):
    path = tmp_path / "a.jinja"
    if raw is not None:
        path.write_bytes(raw)
    for given in (path, tmp_path / "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=reason if given == path else "cannot be read"):
            template_of(tiny_chat.TOKENIZER, str(given), {}, "2024-07-26")
