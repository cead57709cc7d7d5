"""Licences as the folder of a model or a text tells them, and never more than it tells."""

import json

import pytest

from limbeck import files, licences


def card(folder, text):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("---\nlicense: Apache-2.0\n---\n", "apache-2.0"),
        ("---\nlicense: gemma\n---\nwords\n", "gemma"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: [unclosed\n---\n", None),
        ("no metadata\n", None),
        ("", None),
    ],
)
def test_a_models_card_tells_its_licence(tmp_path, text, told):
    found = licences.of_model("teacher", card(tmp_path / "model", text))
    assert found.licence == told
    assert found.allows == (licences.ALLOWS[told] if told else licences.UNKNOWN)
    assert not found.on_hub


def test_a_folder_here_may_name_its_base_on_the_hub(tmp_path):
    for base, told in (
        ("someone/model", "someone/model"),
        ("[a/b, c/d]", None),
        ("/a/folder", None),
    ):
        found = licences.of_model("teacher", card(tmp_path, f"---\nbase_model: {base}\n---\n"))
        assert found.on_hub == told, base


@pytest.mark.parametrize(
    "front",
    ["1: 2", "~: 2", "yes: no", "self: 1", "ignore_metadata_errors: 1", "[" * 3000, "a: &a [*a]", "- a list", "!!python/name:os.system x: 1"],
)  # fmt: skip
def test_a_card_that_somebody_wrote_ends_nothing(tmp_path, front):
    found = licences.of_model("teacher", card(tmp_path, f"---\n{front}\n---\n"))
    assert (found.licence, found.base) == (None, None)


@pytest.mark.parametrize(
    "told", ["mit** |\\n\\n# Injected", "<img src=x>", "a" * 100, "MIT\\nor not", "`mit`"]
)
def test_what_can_be_no_name_of_a_licence_is_none(tmp_path, told):
    found = licences.of_model("teacher", card(tmp_path, f'---\nlicense: "{told}"\n---\n'))
    assert found.licence is None


def test_a_card_that_is_no_text_and_a_folder_without_one_tell_nothing(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert licences.of_model("teacher", str(tmp_path)).licence is None
    assert licences.of_model("teacher", str(tmp_path / "absent")).licence is None


def test_a_licence_that_nobody_here_knows_is_told_and_not_explained(tmp_path):
    found = licences.of_model("teacher", card(tmp_path, "---\nlicense: my-own-1.0\n---\n"))
    assert (found.licence, found.allows) == ("my-own-1.0", licences.UNKNOWN)


def test_a_corpus_tells_it_in_its_manifest_and_generated_text_who_wrote_it(tmp_path):
    with files.committed(tmp_path / "docs", {"licence": "PSF-2.0"}) as partial:
        (partial / "train.jsonl").write_text("")
    about = {"kind": "generated text", "teacher": "some-api-model", "spent": 1.25}
    with files.committed(tmp_path / "answers", about) as partial:
        (partial / "train.jsonl").write_text("")
    docs = licences.of_text("text", {"path": str(tmp_path / "docs")})
    answers = licences.of_text("text", {"path": str(tmp_path / "answers")})
    assert (docs.licence, docs.writer, docs.spent) == ("psf-2.0", None, None)
    assert (answers.licence, answers.writer, answers.spent) == (None, "some-api-model", 1.25)
    assert licences.of_text("text", {"rows": 3}) is None
    assert licences.of_text("text", {"path": ["a", "b"]}) is None


def test_a_manifest_that_is_none_is_passed_over(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(["no", "object"]))
    assert licences.of_text("text", {"path": str(tmp_path)}).licence is None


def test_names_of_the_hub_are_told_from_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone/model").mkdir(parents=True)
    assert licences.is_on_hub("someone/other")
    assert licences.is_on_hub("someone/text:config@main")
    for name in ("someone/model", "corpora/a/b", "./here", "alone", "/abs/path", "~/m/x"):
        assert not licences.is_on_hub(name), name
    found = licences.of_text("text", {"path": "someone/text:config@v1"})
    assert (found.name, found.on_hub, found.licence) == ("someone/text", "someone/text", None)
