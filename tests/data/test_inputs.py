"""A path names files in one order, and never held-out text as training text."""

import gzip
import os

import pytest

from limbeck.data.inputs import Hub, inputs, kind
from limbeck.errors import DataError


def put(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")


def found(path, split="train"):
    return [file.name for file in inputs(path, split).files]


def test_a_folder_gives_its_text_files_sorted(tmp_path):
    put(
        tmp_path, "b.txt", "a.jsonl", "c/d.parquet", "notes.md", ".hidden/x.txt", ".partial-1-x.txt"
    )
    assert found(tmp_path) == ["a.jsonl", "b.txt", "d.parquet"]


@pytest.mark.parametrize(
    "names", [("train.jsonl", "held_out.jsonl"), ("train/a.txt", "held_out/b.txt")]
)
def test_a_folder_with_splits_gives_only_the_one_asked_for(tmp_path, names):
    put(tmp_path, *names, "stray.txt")
    assert found(tmp_path) == [names[0].split("/")[-1]]
    assert found(tmp_path, "held_out") == [names[1].split("/")[-1]]
    with pytest.raises(DataError, match=r"no split 'test'\. It has: held_out, train"):
        inputs(tmp_path, "test")


def test_shards_of_a_split_are_told_by_their_first_word(tmp_path):
    put(tmp_path, "train-00001-of-2.parquet", "train-00000-of-2.parquet", "test-00000-of-1.parquet")
    assert found(tmp_path) == ["train-00000-of-2.parquet", "train-00001-of-2.parquet"]


def test_a_linked_folder_is_read_as_any_other_and_none_is_read_twice(tmp_path):
    put(tmp_path, "here/a.txt", "elsewhere/b.txt")
    (tmp_path / "here/big").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/up").symlink_to(tmp_path / "here")
    assert found(tmp_path / "here") == ["a.txt", "b.txt"]


@pytest.mark.parametrize("path", ["", "**/*.txt"])
def test_a_link_to_a_file_that_is_not_there_is_refused_and_not_left_out(tmp_path, path):
    put(tmp_path, "train/a.txt")
    (tmp_path / "train/b.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"b\.txt: is a link to a file that is not there"):
        inputs(f"{tmp_path}/{path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unreadable for root")
def test_a_folder_that_cannot_be_read_is_refused_and_not_left_out(tmp_path):
    put(tmp_path, "a.txt", "in/b.txt")
    (tmp_path / "in").chmod(0)
    try:
        with pytest.raises(DataError, match="in: cannot be read"):
            inputs(tmp_path)
    finally:
        (tmp_path / "in").chmod(0o700)


def test_a_pattern_gives_the_text_files_that_match(tmp_path):
    put(tmp_path, "b.txt", "a.txt", "a.md")
    assert found(f"{tmp_path}/*") == ["a.txt", "b.txt"]
    with pytest.raises(DataError, match="no text file matches"):
        inputs(f"{tmp_path}/*.parquet")


def test_an_unknown_kind_an_empty_folder_and_a_missing_file_are_refused(tmp_path):
    put(tmp_path, "a.md")
    with pytest.raises(DataError, match="not a kind of text"):
        inputs(tmp_path / "a.md")
    with pytest.raises(DataError, match="holds no text file"):
        inputs(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        inputs(tmp_path / "b.txt")
    with pytest.raises(DataError, match="no such file or folder"):
        inputs("missing/rows.jsonl")


def test_a_pinned_hub_dataset_needs_no_question(tmp_path):
    commit = "0123456789abcdef" * 2 + "01234567"
    assert inputs(f"owner/name:sample-10BT@{commit}").hub == Hub(
        "owner/name", "sample-10BT", commit
    )
    assert inputs(f"owner/name@{commit}").hub == Hub("owner/name", None, commit)


def test_offline_a_hub_dataset_without_a_commit_is_refused(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="neither a path here"):
        inputs("owner/name")


def test_identity_is_of_bytes_and_kind_not_of_names(tmp_path):
    put(tmp_path, "one/a.txt", "two/z.txt", "three/a.jsonl")
    one, two, three = (inputs(tmp_path / name).identity() for name in ("one", "two", "three"))
    assert one == two
    assert one != three
    (tmp_path / "two/z.txt").write_text("other")
    assert inputs(tmp_path / "two").identity() != one


def test_the_longest_ending_tells_the_kind(tmp_path):
    (tmp_path / "a.JSONL.gz").write_bytes(gzip.compress(b""))
    assert kind(tmp_path / "a.JSONL.gz") == ".jsonl.gz"
    assert kind(tmp_path / "a.gz") == ""
