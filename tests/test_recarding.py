"""A model card is changed and nothing else, through kills, links and file systems without hard links."""

import os

import pytest

from limbeck import files
from limbeck.errors import LimbeckError
from limbeck.folder import owned
from limbeck.recarding import bring_back, recarded


def folder(place):
    with files.committed(place, {"kind": "export"}) as partial:
        (partial / "README.md").write_text("old")
        (partial / "more").mkdir()
        (partial / "more/tools.jinja").write_text("x")
        (partial / "model.safetensors").write_bytes(bytes(64))
    return place


def test_another_card_changes_the_card_alone(tmp_path):
    place = folder(tmp_path / "export")
    before = (place / "model.safetensors").stat()
    recarded(place, "new")
    assert (place / "README.md").read_text() == "new"
    assert files.verify(place).about == {"kind": "export"}
    after = (place / "model.safetensors").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    stamp = (place / "manifest.json").stat().st_ino
    recarded(place, "new")
    assert (place / "manifest.json").stat().st_ino == stamp
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_damaged_export_gets_no_new_card(tmp_path):
    place = tmp_path / "export"
    with files.committed(place) as partial:
        (partial / "README.md").write_text("old")
        (partial / "config.json").write_text("{}")
    (place / "config.json").write_text("[]")
    with pytest.raises(LimbeckError, match=r"config\.json"):
        recarded(place, "new")
    assert (place / "README.md").read_text() == "old"


def test_a_kill_between_the_renames_loses_no_model(tmp_path, monkeypatch):
    place, rename = folder(tmp_path / "export"), type(tmp_path).rename

    def killed(self, target):
        if self.name.startswith(".partial-card"):
            raise KeyboardInterrupt  # where the power goes
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(type(tmp_path), "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            recarded(place, "new")
    assert not place.exists()
    with owned(tmp_path):
        assert (place / "README.md").read_text() == "old"
        files.verify(place)
        recarded(place, "new")
    assert (place / "README.md").read_text() == "new"
    bring_back(place)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "export"]


def test_what_a_kill_left_in_an_evaluation_is_swept(tmp_path):
    (tmp_path / "evaluation/benchmarks").mkdir(parents=True)
    for inner in ("", "benchmarks/"):
        (tmp_path / f"evaluation/{inner}.partial-1-abcdef01-piqa.json").write_text('{"mod')
    (tmp_path / "evaluation/kept.json").write_text("{}")
    with owned(tmp_path):
        assert [path.name for path in tmp_path.rglob("*.json")] == ["kept.json"]


def test_a_link_to_another_place_stays_one(tmp_path):
    folder(tmp_path / "disk/export")
    (tmp_path / "export").symlink_to(tmp_path / "disk/export")
    recarded(tmp_path / "export", "new")
    assert (tmp_path / "export").is_symlink()
    assert (tmp_path / "disk/export/README.md").read_text() == "new"
    files.verify(tmp_path / "export")


def test_a_file_system_without_hard_links_has_copies(tmp_path, monkeypatch):
    place = folder(tmp_path / "export")

    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    recarded(place, "new")
    assert files.verify(place).about == {"kind": "export"}
    assert (place / "README.md").read_text() == "new"


def test_ends_of_lines_stay_as_they_are_written(tmp_path):
    place = folder(tmp_path / "export")
    recarded(place, "one\r\ntwo")
    stamp = (place / "manifest.json").stat().st_ino
    recarded(place, "one\r\ntwo")
    assert (place / "manifest.json").stat().st_ino == stamp
