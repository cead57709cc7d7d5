"""The door to benchmarks refuses in one line what cannot be done, before anything is loaded."""

import pytest
import tiny_benchmarks
import tiny_folder
from typer.testing import CliRunner

from limbeck import files
from limbeck.cli import app
from limbeck.errors import LimbeckError


@pytest.fixture
def model(tmp_path):
    tiny_benchmarks.folder(tmp_path / "data")
    return tiny_folder.teacher(tmp_path / "teacher")


def refused(*words):
    done = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert isinstance(done.exception, LimbeckError), done.output
    return str(done.exception)


def test_a_model_without_tasks_is_told_what_to_give(model):
    assert "is no run: it has no recipe.yaml" in refused(model)
    assert "--tasks lrc9" in refused(model)
    assert "--limit belongs to --tasks" in refused(model, "--limit", 3)
    assert "--few-shot belongs to --tasks" in refused(model, "--few-shot", 3)


def test_options_are_checked_as_the_recipe_checks_its_keys(model, tmp_path):
    data = ("--data", tmp_path / "data")
    assert "limit: Input should be greater than 0" in refused(
        model, "--tasks", "piqa", *data, "--limit", 0
    )
    assert "--tasks: there are no questions of 'piqqa'" in refused(model, "--tasks", "piqqa", *data)
    assert "--data" in refused(model, "--tasks", "sciq", *data)
    assert "--models chooses among those of a run" in refused(
        model, "--tasks", "piqa", *data, "--models", "teacher"
    )


def test_a_run_takes_its_device_and_dtype_from_its_recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    assert "compute.dtype says it" in refused(tmp_path, "--tasks", "piqa", "--dtype", "float32")


@pytest.mark.filterwarnings("ignore")  # of the harness and its libraries
def test_the_command_that_made_a_file_is_in_it(model, tmp_path, monkeypatch, handlers):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "rows")
    words = [
        *("evaluate", str(model), "--tasks", "piqa,arc_easy", "--data", str(tmp_path / "data")),
        *("--few-shot", "1", "--limit", "2", "--device", "cpu", "--to", str(tmp_path / "to")),
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = files.read_json(tmp_path / "to/piqa.1-shot.limit-2.json")
    for word in words:
        assert word in found["command"].split()
    assert found["few_shot"] == 1
    assert "arc_easy" in done.output
