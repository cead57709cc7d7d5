"""The documentation of this Python becomes a corpus: divided by document, nothing twice."""

import json
import sys

import pytest

from limbeck.data.corpora import _documents, held_out, python_docs
from limbeck.data.documents import read
from limbeck.errors import Damaged
from limbeck.files import read_manifest


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    pytest.importorskip("pydoc_data.topics")
    return python_docs(tmp_path_factory.mktemp("corpora") / "python-docs")


def test_there_is_enough_prose_and_enough_held_out(corpus):
    assert (corpus / "train.jsonl").stat().st_size >= 1_500_000
    assert (corpus / "held_out.jsonl").stat().st_size >= 100_000


def test_counts_in_the_manifest_are_those_of_the_files(corpus):
    counts = read_manifest(corpus).about["counts"]
    for name in ("train", "held_out"):
        raw = (corpus / f"{name}.jsonl").read_bytes()
        assert counts[name] == {"documents": raw.count(b"\n"), "bytes": len(raw)}


def test_no_paragraph_stands_in_both_parts(corpus):
    parts = []
    for split in ("train", "held_out"):
        texts = [document.text for document in read(corpus, split=split)]
        parts.append({part for text in texts for part in text.split("\n\n") if len(part) > 100})
    assert len(parts[1]) > 100
    assert not parts[0] & parts[1]


def test_run_again_it_is_verified_and_left_alone(corpus):
    stamp = (corpus / "train.jsonl").stat().st_mtime_ns
    assert python_docs(corpus) == corpus
    assert (corpus / "train.jsonl").stat().st_mtime_ns == stamp


def test_a_damaged_corpus_is_refused(tmp_path, corpus):
    other = tmp_path / "copy"
    other.mkdir()
    for path in corpus.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "train.jsonl").write_bytes(b"{}\n")
    with pytest.raises(Damaged, match=r"train\.jsonl"):
        python_docs(other)


LONG = (
    "What is heavy stays behind; what is light is kept, drop by drop, until the vessel is full. "
    * 2
)


def library(root):
    (root / "json").mkdir()
    (root / "json" / "__init__.py").write_text(f'"""{LONG}"""\nraise SystemExit(3)\n')
    (root / "json" / "tool.py").write_text(
        f'class A:\n    """A: {LONG}"""\n    async def b(self):\n        """b: {LONG}"""\n'
    )
    (root / "ast.py").write_text(f'"""  {LONG.upper()}"""\ndef f():\n    """f: {LONG}"""\n')
    (root / "this.py").write_text(f'"""this {LONG}"""\n')
    (root / "alien.py").write_text(f'"""alien {LONG}"""\n')
    (root / "abc.py").write_text("def (:\n")
    (root / "bdb.py").write_text(f'"""bdb \\ud800 {LONG}"""\n')


def test_modules_are_parsed_not_imported_and_copies_left_out(tmp_path):
    library(tmp_path)
    topics = {"z": f"z {LONG}", "a": f"a {LONG}", "short": "no", "copy": f"a  {LONG}"}
    rows = {row["where"]: row["text"] for row in _documents(topics, tmp_path)}
    assert list(rows) == ["topic:a", "topic:z", "module:ast", "module:json.tool"]
    assert rows["module:json.tool"].startswith("json.tool.A\n\nA: What")
    assert "\njson.tool.A.b\n\nb: What" in rows["module:json.tool"]
    assert rows["module:ast"].startswith("ast\n\n")
    assert "json" in sys.modules


def test_documents_are_the_same_again(tmp_path):
    library(tmp_path)
    assert list(_documents({}, tmp_path)) == list(_documents({}, tmp_path))


def test_the_division_is_pinned_and_about_a_tenth():
    assert [name for name in map(str, range(40)) if held_out(name)] == ["4", "21", "25"]
    assert 800 < sum(held_out(f"module:{n}") for n in range(10_000)) < 1200


def test_every_line_is_text_and_where(corpus):
    for line in (corpus / "held_out.jsonl").read_bytes().splitlines():
        assert list(json.loads(line)) == ["text", "where"]
