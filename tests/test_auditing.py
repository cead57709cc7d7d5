"""The audit log says who did what to a run, of what it was made and how it ended, and no secret."""

import json
import os
import platform
import subprocess
import sys

import pytest
import tiny_folder

from limbeck import auditing, files, loading
from limbeck.errors import Interrupted, RecipeError


def lines(run):
    return [json.loads(line) for line in (run / auditing.NAME).read_text().splitlines()]


def test_a_command_leaves_its_beginning_and_its_end(tmp_path):
    asked = tiny_folder.recipe(tmp_path)
    run = tmp_path / "runs/tiny"
    with auditing.kept("train", run, asked, ["seed=canary", "name=tiny"]):
        files.write_json(run / "provenance.json", {"prints": {"teacher": "0f", "text": ["1e"]}})
    begun, ended = lines(run)
    assert begun["id"] == ended["id"]
    assert (begun["event"], begun["command"]) == ("begun", "limbeck train")
    assert begun["overrides"] == ["seed", "name"]
    assert begun["host"] == platform.node()
    assert begun["process"] == os.getpid()
    assert begun["recipe"] == files.digest(loading.dump(asked).encode())
    assert begun["user"]
    assert set(begun["code"]) == {"commit", "changes"}
    assert (ended["event"], ended["outcome"]) == ("ended", "done")
    assert ended["prints"] == {"teacher": "0f", "text": ["1e"]}
    assert "canary" not in (run / auditing.NAME).read_text()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RecipeError("canary"), "refused: RecipeError"),
        (Interrupted("canary"), "interrupted; goes on with the same command"),
        (KeyError("canary"), "stopped by a signal or an error of the program"),
    ],
)
def test_an_end_that_is_none_is_told_without_what_was_found(tmp_path, error, outcome):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("name: run\n")
    with pytest.raises(type(error)), auditing.kept("export", run):
        raise error
    begun, ended = lines(run)
    assert begun["recipe"] == files.digest(b"name: run\n")
    assert ended["outcome"] == outcome
    assert "canary" not in (run / auditing.NAME).read_text()


def test_other_ranks_and_folders_that_are_not_there_leave_nothing(tmp_path, monkeypatch):
    with auditing.kept("export", tmp_path / "absent"):
        pass
    monkeypatch.setenv("RANK", "1")
    with auditing.kept("train", tmp_path / "run", tiny_folder.recipe(tmp_path)):
        pass
    assert not (tmp_path / "absent").exists()
    assert not (tmp_path / "run").exists()


def test_a_command_line_in_json_says_its_error_as_one_object_and_audits_it(tmp_path):
    teacher = {"live": {"model": str(tmp_path / "absent")}}
    path = tiny_folder.written(tmp_path, evaluate=None, teacher=teacher)
    done = subprocess.run(
        [sys.executable, "-m", "limbeck", "--log-format", "json", "train", str(path), "seed=5"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    (said,) = (json.loads(line) for line in done.stderr.splitlines())
    assert said["level"] == "error"
    assert "absent" in said["text"]
    begun, ended = lines(tmp_path / "runs/tiny")
    assert begun["overrides"] == ["seed"]
    assert ended["outcome"] == "refused: ModelError"
