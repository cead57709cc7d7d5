"""Benchmarks of a run: asked of all four models, kept by task, shown everywhere, and never asked twice."""

import json

import pytest
import tiny_benchmarks
import tiny_folder
import torch
from typer.testing import CliRunner

from limbeck import assembly, benchmarking, files, fitting, judging, loading, run
from limbeck.cli import app
from limbeck.errors import DataError, Interrupted, RecipeError
from limbeck.models import load
from limbeck.report import render

pytestmark = [pytest.mark.usefixtures("handlers"), pytest.mark.filterwarnings("ignore")]
MODELS = ("teacher", "before", "student", "control")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed (limbeck[harness])")
    found = tmp_path_factory.mktemp("benchmarking")
    tiny_benchmarks.folder(found / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", found / "rows")
        yield found


def asked(place, **changes):
    evaluate = tiny_folder.tree(place)["evaluate"]
    wanted = {"tasks": ["piqa", "wikitext"], "data": str(place / "data"), "limit": 4}
    return tiny_folder.recipe(place, evaluate=evaluate | {"benchmarks": wanted | changes})


@pytest.fixture(scope="module")
def finished(place):
    recipe = asked(place)
    run.carry_out(recipe)
    return tiny_folder.folder(recipe)


def kept(folder, name="piqa.limit-4"):
    return files.read_json(folder.path / f"evaluation/benchmarks/{name}.json")


def test_each_task_is_one_file_with_all_four_models_and_the_command(finished):
    for name in ("piqa.limit-4", "wikitext.limit-4"):
        found = kept(finished, name)
        assert set(found["models"]) == set(found["items"]) == set(MODELS)
        assert found["command"] == f"limbeck evaluate {finished.path}"
        assert found["settings"]["limit"] == 4
    assert kept(finished)["models"]["student"]["acc_stderr"] >= 0
    assert len(kept(finished)["items"]["control"]["piqa"]["acc"]) == 4
    assert "difference" in kept(finished)["student_against_control"]["acc"]


def test_the_student_before_is_the_one_that_training_began_with(finished, place):
    found = kept(finished, "wikitext.limit-4")["models"]
    assert len({told["bits_per_byte"] for told in found.values()}) == 4
    base = assembly.ground(asked(place))
    teacher = assembly.load_teacher(base)
    before = benchmarking._before(base)
    layers = before.config.num_hidden_layers
    assert layers == 2 < teacher.config.num_hidden_layers
    assert torch.equal(before.get_input_embeddings().weight, teacher.get_input_embeddings().weight)


def test_table_and_reports_show_every_figure(finished, capsys):
    judging.tell(finished, render.write(finished.path))
    printed = capsys.readouterr().out
    texts = [(finished.path / name).read_text() for name in ("report.html", "report.md")]
    for model in MODELS:
        value = f"{kept(finished, 'wikitext.limit-4')['models'][model]['bits_per_byte']:.4f}"
        for text in (printed, *texts):
            assert value in text, model
    assert "student − control" in texts[0]
    assert "Again: `limbeck evaluate" in texts[1]


def test_what_is_answered_is_not_asked_again(finished, place, capsys):
    before = tiny_folder.stamps(finished.path / "evaluation/benchmarks")
    capsys.readouterr()
    run.carry_out(asked(place))
    assert "all 2 are answered already" in capsys.readouterr().err
    assert tiny_folder.stamps(finished.path / "evaluation/benchmarks") == before


def test_a_stopped_evaluation_goes_on_with_the_next_task(finished, place, capsys):
    wanted = asked(place, limit=3)
    base = assembly.ground(wanted)
    job = benchmarking.job_of(base, finished)
    calls = iter([False, False, False, True])
    with pytest.raises(Interrupted, match="goes on with the next"):
        benchmarking.of_run(base, finished, job, lambda: next(calls))
    said = capsys.readouterr().err
    assert "before: piqa (1 of 2)" in said
    assert "before: wikitext" not in said
    benchmarking.of_run(base, finished, job, lambda: False)
    said = capsys.readouterr().err
    for done in ("teacher:", "before: piqa"):
        assert done not in said
    for left in ("before: wikitext (1 of 1)", "student: piqa (1 of 2)", "control: wikitext"):
        assert left in said
    assert set(kept(finished, "piqa.limit-3")["models"]) == set(MODELS)
    # The answers of another number of questions stay.
    assert set(kept(finished)["models"]) == set(MODELS)


def test_benchmarks_do_not_measure_held_out_text_again(finished, place):
    assert judging.done(finished, asked(place).evaluate)
    assert judging.done(finished, asked(place, limit=9).evaluate)


def test_a_run_is_asked_other_questions_than_its_recipes(finished, place):
    words = ["--tasks", "boolq", "--data", str(place / "data"), "--models", "student,control"]
    done = CliRunner().invoke(app, ["evaluate", str(finished.path), *words])
    assert done.exit_code == 0, done.output
    found = kept(finished, "boolq")
    assert set(found["models"]) == {"student", "control"}
    assert set(words) <= set(found["command"].split())
    assert "boolq" in (finished.path / "report.md").read_text()
    (finished.path / "evaluation/benchmarks/boolq.json").unlink()


def test_one_model_is_asked_without_a_run_as_it_is_in_one(finished, place, capsys, monkeypatch):
    monkeypatch.chdir(place)
    wanted = asked(place).evaluate.benchmarks
    model = benchmarking.Named(str(place / "teacher"), "cpu", "float32", None)
    benchmarking.of_model(model, wanted, "limbeck evaluate teacher --tasks piqa,wikitext")
    alone = json.loads((place / "evaluations/teacher/wikitext.limit-4.json").read_text())
    assert alone["models"]["model"] == kept(finished, "wikitext.limit-4")["models"]["teacher"]
    assert alone["command"].endswith("--tasks piqa,wikitext")
    assert "bits_per_byte" in capsys.readouterr().out
    # Another model of that name is another model.
    before = tiny_folder.teacher(place / "other" / "teacher", seed=9)
    other = benchmarking.Named(str(before), "cpu", "float32", None)
    benchmarking.of_model(other, wanted, "x")
    again = json.loads((place / "evaluations/teacher/wikitext.limit-4.json").read_text())
    assert again["prints"] == {"model": load.fingerprint(str(before))}
    assert again["models"] != alone["models"]


def test_what_is_missing_is_told_before_training(place):
    lacking = asked(place, tasks=["sciq"])
    lacking = lacking.model_copy(update={"name": "never"})
    with pytest.raises(DataError, match=r"evaluate\.benchmarks\.data: .*lacks sciq/test\.jsonl"):
        run.carry_out(lacking)
    assert not tiny_folder.folder(lacking).path.exists()
    with pytest.raises(RecipeError, match=r"evaluate\.benchmarks\.tasks.*Did you mean 'piqa'"):
        asked(place, tasks=["piqua"])


def test_a_recipe_with_benchmarks_is_the_same_run(finished, place):
    kept_recipe = fitting.check(loading.load(finished.recipe))
    assert kept_recipe.evaluate.benchmarks == asked(place).evaluate.benchmarks
