"""Answers are kept per model, compared question by question, and an average is of what there is."""

import math

import pytest

from limbeck import files
from limbeck.errors import Damaged
from limbeck.evaluation import _answers
from limbeck.evaluation._harness import Outcome
from limbeck.judging import recovered
from limbeck.recipe import Benchmarks

ABOUT = {"measure": "piqa", "command": "limbeck evaluate runs/x", "settings": {"limit": None}}


def outcome(values, figure="acc"):
    mean = sum(values) / len(values)
    error = math.sqrt(mean * (1 - mean) / (len(values) - 1))
    return Outcome(
        figures={figure: mean, f"{figure}_stderr": error},
        questions=len(values),
        higher_is_better={figure: True},
        few_shot=0,
        items={"piqa": {figure: values}},
    )


def kept(figure="acc", **models):
    found = {}
    for title, values in models.items():
        found = _answers.added(found, ABOUT, title, f"mark-{title}", outcome(values, figure))
    return _answers.compared(found, recovered)


TEACHER, STUDENT = [1.0] * 36 + [0.0] * 4, [1.0] * 24 + [0.0] * 16
CONTROL = [1.0] * 12 + [0.0] * 28


def test_pairs_tell_more_than_two_errors_do():
    found = kept(teacher=TEACHER, student=STUDENT, control=CONTROL)
    against = found["student_against_control"]["acc"]
    assert against["difference"] == pytest.approx(0.3)
    # 12 questions of 40 are won and none lost: sqrt(0.3 * 0.7 / 39).
    assert against["stderr"] == pytest.approx(math.sqrt(0.3 * 0.7 / 39))
    apart = math.hypot(*(found["models"][name]["acc_stderr"] for name in ("student", "control")))
    assert against["stderr"] < 0.75 * apart
    assert found["gap_recovered"] == {"acc": pytest.approx(0.5)}


def test_no_gap_is_told_within_two_errors():
    nearly = [1.0] * 13 + [0.0] * 27
    found = kept(teacher=nearly, student=STUDENT, control=CONTROL)
    assert found["gap_recovered"] == {}
    assert "acc" in found["student_against_control"]
    assert kept(teacher=CONTROL, student=STUDENT, control=TEACHER)["gap_recovered"] == {}
    assert kept(teacher=TEACHER, student=STUDENT)["student_against_control"] == {}


def test_what_is_no_mean_of_its_questions_has_no_error_of_pairs():
    found = kept(student=STUDENT, control=CONTROL)
    for told in found["models"].values():
        told["acc"] = math.exp(told["acc"])
    again = _answers.compared(found, recovered)
    assert again["student_against_control"]["acc"]["stderr"] is None


def test_lower_may_be_better():
    values = {"teacher": [2.0] * 30, "student": [3.0] * 30, "control": [4.0] * 30}
    found = {}
    for title, each in values.items():
        told = Outcome({"nats": each[0]}, 30, {"nats": False}, 0, {}, {"piqa": {"nats": each}})
        found = _answers.added(found, ABOUT, title, title, told)
    assert _answers.compared(found, recovered)["gap_recovered"] == {"nats": pytest.approx(0.5)}


def test_other_settings_or_another_model_are_asked_again(tmp_path):
    path = tmp_path / "piqa.json"
    assert _answers.read(path, ABOUT["settings"]) == {}
    files.write_json(path, kept(student=STUDENT))
    found = _answers.read(path, ABOUT["settings"])
    assert _answers.has(found, "student", "mark-student")
    assert not _answers.has(found, "student", "mark-of-another")
    assert not _answers.has(found, "control", "mark-control")
    assert _answers.read(path, {"limit": 3}) == {}


@pytest.mark.parametrize(("key", "value"), [("prints", {"student": 3}), ("models", [1]), ("items", None), ("questions", "40")])  # fmt: skip
def test_answers_of_another_shape_are_named(tmp_path, key, value):
    path = tmp_path / "piqa.json"
    files.write_json(path, kept(student=STUDENT) | {key: value})
    with pytest.raises(Damaged, match=rf"piqa\.json has .* at '{key}.*Remove the file, and ask"):
        _answers.read(path, ABOUT["settings"])


def test_an_average_is_of_those_that_answered_all():
    whole = {
        "piqa": kept(teacher=TEACHER, student=STUDENT, control=CONTROL),
        "logiqa": kept("acc_norm", teacher=CONTROL, student=STUDENT, control=CONTROL),
    }
    del whole["logiqa"]["models"]["control"]
    found = _answers.averaged("lrc9", whole, ABOUT, recovered)
    assert found["of"] == {"piqa": "acc", "logiqa": "acc_norm"}
    assert set(found["models"]) == {"teacher", "student"}
    assert found["models"]["teacher"]["average"] == pytest.approx((0.9 + 0.3) / 2)
    errors = [
        whole[name]["models"]["teacher"][f"{figure}_stderr"] for name, figure in found["of"].items()
    ]
    assert found["models"]["teacher"]["average_stderr"] == pytest.approx(math.hypot(*errors) / 2)
    assert found["student_against_control"] == {}


def test_an_average_is_compared_by_pairs_too():
    whole = {
        "piqa": kept(teacher=TEACHER, student=STUDENT, control=CONTROL),
        "boolq": kept(teacher=TEACHER, student=STUDENT, control=CONTROL),
    }
    found = _answers.averaged("lrc9", whole, ABOUT, recovered)
    against = found["student_against_control"]["average"]
    assert against["difference"] == pytest.approx(0.3)
    assert against["stderr"] == pytest.approx(math.sqrt(0.3 * 0.7 / 39) / math.sqrt(2))
    assert found["gap_recovered"]["average"] == pytest.approx(0.5)


def test_other_numbers_of_questions_and_examples_are_other_files(tmp_path):
    names = [
        _answers.path_of(tmp_path, "piqa", Benchmarks(tasks=("piqa",), **changes)).name
        for changes in ({}, {"limit": 20}, {"few_shot": 0, "limit": 20})
    ]
    assert names == ["piqa.json", "piqa.limit-20.json", "piqa.0-shot.limit-20.json"]
