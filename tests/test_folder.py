"""A run's folder belongs to one recipe and, while it is worked in, to one process."""

from pathlib import Path

import pytest

from limbeck import prints
from limbeck.errors import Damaged, LimbeckError
from limbeck.folder import Folder, owned


def same(text):
    return text


def test_everything_has_one_place(tmp_path):
    run = Folder(tmp_path)
    assert run.checkpoints(1, "whole") == tmp_path / "stages/2-whole/checkpoints"
    assert run.control.checkpoints(0, "a") == tmp_path / "control/stages/1-a/checkpoints"
    assert run.evaluation("speed") == tmp_path / "evaluation/speed.json"
    assert {run.recipe.name, run.log.name, run.export.name} == {
        "recipe.yaml",
        "log.jsonl",
        "export",
    }


def test_a_folder_is_claimed_once_and_found_again(tmp_path):
    run = Folder(tmp_path / "deep" / "run")
    run.begin("name: a\n", same)
    run.begin("name: a\n", same)
    assert run.recipe.read_text() == "name: a\n"


def test_another_recipe_is_refused_with_the_lines_that_differ(tmp_path):
    run = Folder(tmp_path)
    run.begin("name: a\nseed: 1\nruns: x\n", same)
    with pytest.raises(LimbeckError) as caught:
        run.begin("name: a\nseed: 2\nruns: x\n", same)
    assert "there: seed: 1" in str(caught.value)
    assert "here:  seed: 2" in str(caught.value)
    assert "name: a" not in str(caught.value)
    assert "seed: 1" in run.recipe.read_text()


def test_lines_in_another_order_are_another_recipe(tmp_path):
    run = Folder(tmp_path)
    run.begin("a\nb\n", same)
    with pytest.raises(LimbeckError, match="the same lines in another order"):
        run.begin("b\na\n", same)


def test_what_does_not_make_another_run_may_change(tmp_path):
    def identity(text):
        return text.partition("resume")[0]

    run = Folder(tmp_path)
    run.begin("name: a\nresume: none\n", identity)
    run.begin("name: a\nresume: auto\n", identity)
    assert "auto" in run.recipe.read_text()


def test_a_folder_in_use_is_refused_and_free_afterwards(tmp_path):
    refused = pytest.raises(LimbeckError, match="in use by another process")
    with owned(tmp_path), refused, owned(tmp_path):
        pass
    with pytest.raises(ValueError, match="mine"), owned(tmp_path):
        raise ValueError("mine")
    with owned(tmp_path):
        pass


def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    arms = [tmp_path, tmp_path / "control"]
    left, kept = [], []
    for arm in arms:
        for inner in (arm, arm / "stages/1-a/checkpoints"):
            left += [inner / ".partial-1-00000000-x", inner / ".partial-removed-000002"]
            kept += [inner / "000004", inner / ".damaged-000006"]
    for path in left + kept:
        path.mkdir(parents=True)
        Path(path / "file").write_text("x")
    with owned(tmp_path):
        assert not any(path.exists() for path in left)
        assert all((path / "file").is_file() for path in kept)


@pytest.mark.parametrize("text", [b"", b"[1]", b"name: [", b"\xff", b"stages: 3"])
def test_a_damaged_recipe_of_a_run_is_named_and_kept(tmp_path, text):
    run = Folder(tmp_path)
    run.recipe.write_bytes(text)
    with pytest.raises(
        Damaged, match=r"(?s)recipe\.yaml is not the recipe that was written there .*Bring it back"
    ):
        run.begin("name: a\n", prints.identity)
    assert run.recipe.read_bytes() == text
