"""How fast models write is measured once of the same models, told in table and report, and refused in one line where it cannot be."""

import pytest
import tiny_folder
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from limbeck import files, fitting, run
from limbeck.cli import app
from limbeck.errors import LimbeckError
from limbeck.recipe import Speed
from limbeck.report import render, speeds

pytestmark = pytest.mark.usefixtures("handlers")
SIZES = ("--lengths", "4,8", "--batches", "1,2", "--new-tokens", "2", "--rounds", "1")


def invoked(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run whose recipe asks for it."""
    asked = tiny_folder.recipe(tmp_path_factory.mktemp("timed"))
    speed = Speed(lengths=(8,), new_tokens=2, rounds=1)
    asked = asked.model_copy(
        update={"evaluate": asked.evaluate.model_copy(update={"speed": speed})}
    )
    asked = fitting.check(asked)
    run.carry_out(asked)
    return asked, tiny_folder.folder(asked)


def test_a_run_measures_teacher_student_and_control(finished):
    _, folder = finished
    kept = speeds.read(folder.path / "evaluation")
    assert [(one["model"], one["length"], one["batch"]) for one in kept["sizes"]] == [
        (model, 8, 1) for model in ("teacher", "student", "control")
    ]
    assert kept["asked"]["new_tokens"] == 2
    headings, rows = speeds.table(kept)
    assert headings[5] == "of the teacher's"
    assert rows[0][5] == "1.00 ×"
    report = (folder.path / "report.html").read_text()
    assert "How fast they read and write" in report
    assert rows[1][4] in report
    assert "## How fast they read and write" in (folder.path / "report.md").read_text()


def test_what_was_measured_of_the_same_models_is_not_measured_again(finished, capsys):
    asked, folder = finished
    path = folder.path / "evaluation/generation.json"
    before = path.read_bytes()
    run.carry_out(asked)
    assert "speed: it was measured already" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_other_sizes_are_measured_by_the_command_and_figures_stay(finished):
    _, folder = finished
    before = (folder.path / "evaluation/bits_per_byte.json").read_bytes()
    done = invoked(folder.path, "--speed", *SIZES)
    assert done.exit_code == 0, done.output
    kept = speeds.read(folder.path / "evaluation")
    assert len(kept["sizes"]) == 3 * 4
    assert kept["command"].endswith("--speed --lengths 4,8 --batches 1,2 --new-tokens 2 --rounds 1")
    assert (folder.path / "evaluation/bits_per_byte.json").read_bytes() == before


def test_one_model_is_measured_alone(tmp_path):
    model = tiny_folder.teacher(tmp_path / "teacher")
    done = invoked(model, "--speed", *SIZES, "--to", tmp_path / "to", "--device", "cpu")
    assert done.exit_code == 0, done.output
    kept = files.read_json(tmp_path / "to/generation.json")
    assert {one["model"] for one in kept["sizes"]} == {"model"}
    assert "of the teacher's" not in speeds.table(kept)[0]
    assert "How fast they read and write" in done.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--speed", "--tasks", "piqa"), "ask one at a time"),
        (("--lengths", "8"), "--lengths belongs to --speed"),
        (("--speed", "--lengths", "0"), "lengths[0]: Input should be greater than 0"),
        (("--speed", "--lengths", "eight"), "lengths[0]"),
        (("--speed", "--batches", ","), "batches"),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path, words, told):
    done = invoked(tiny_folder.teacher(tmp_path / "teacher"), *words)
    assert isinstance(done.exception, LimbeckError)
    assert told in str(done.exception)


def test_learned_positions_have_an_end_that_is_told(tmp_path):
    sizes = {"vocab_size": 32, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    done = invoked(tmp_path / "gpt2", "--speed", "--lengths", "15", "--to", tmp_path / "to")
    assert isinstance(done.exception, LimbeckError), done.output
    assert "16 learned positions; prompts of 15 tokens and 32 written need 47" in str(
        done.exception
    )


def test_a_run_whose_export_is_away_is_not_measured_without_it(finished):
    _, folder = finished
    before = (folder.path / "evaluation/bits_per_byte.json").read_bytes()
    aside = folder.export.with_name("aside")
    folder.export.rename(aside)
    try:
        done = invoked(folder.path)
    finally:
        aside.rename(folder.export)
    assert "so the student cannot be measured" in str(done.exception)
    assert (folder.path / "evaluation/bits_per_byte.json").read_bytes() == before


def test_a_run_without_it_has_no_section(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: x\n")
    assert "How fast" not in render.html(render.collect.facts(tmp_path))
