"""HumanEval and MBPP: reference solutions pass, wrong ones do not, and pass@k is the share of draws in which one of k passes."""

import itertools
import json
import random

import pytest
import tiny_text

from limbeck.errors import LimbeckError, RecipeError
from limbeck.evaluation import _code, _sandbox
from limbeck.recipe import Benchmarks


def rows(name):
    lines = tiny_text.shared(f"{name}/test.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def some(name):
    return random.Random(3).sample(rows(name), 20)


SOLUTIONS = {"humaneval": "canonical_solution", "mbpp": "code"}
PROGRAMS = {"humaneval": _code.humaneval, "mbpp": _code.mbpp}


@pytest.fixture
def _lockable():
    try:
        _sandbox.check("namespaces")
    except LimbeckError as reason:
        pytest.skip(str(reason))


def outcomes(name, questions, answers):
    return _code.apart(PROGRAMS[name](answers, questions), questions)


def failures(name, questions):
    found = outcomes(name, questions, [[row[SOLUTIONS[name]]] for row in questions])
    pairs = zip(questions, found, strict=True)
    return {row["task_id"]: told for row, (told,) in pairs if told != "passed"}


@pytest.mark.usefixtures("_lockable")
@pytest.mark.parametrize("name", SOLUTIONS)
def test_reference_solutions_pass_and_empty_ones_do_not(name):
    questions = some(name)
    assert failures(name, questions) == {}
    empty = "    return None\n" if name == "humaneval" else "pass"
    for (told,) in outcomes(name, questions[:5], [[empty]] * 5):
        assert told.startswith("failed: "), told


@pytest.mark.slow
@pytest.mark.usefixtures("_lockable")
@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mbpp", 500)])
def test_every_reference_solution_passes(name, count):
    questions = rows(name)
    assert len(questions) == count
    assert failures(name, questions) == {}


@pytest.mark.usefixtures("_lockable")
def test_a_solution_of_another_question_does_not_pass():
    questions = some("humaneval")[:8]
    shifted = [[row["canonical_solution"]] for row in questions[1:] + questions[:1]]
    assert {told for (told,) in outcomes("humaneval", questions, shifted)} & {"passed"} == set()


def test_pass_at_k_is_the_share_of_all_choices_in_which_one_passes():
    for samples in range(1, 8):
        for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
            chosen = list(itertools.combinations(range(samples), k))
            share = sum(min(choice) < right for choice in chosen) / len(chosen)
            assert _code.pass_at(k, samples, right) == pytest.approx(share, abs=1e-12)
    assert _code.pass_at(100, 200, 1) == pytest.approx(0.5, abs=1e-12)


def test_a_question_has_a_figure_for_each_k():
    assert _code.passed({}, [["failed: x", "passed", "timed out"]]) == {
        "pass@1": pytest.approx(1 / 3),
        "pass@3": 1.0,
    }
    assert _code.counts(1) == [1]
    assert _code.counts(100) == [1, 10, 100]
    assert _code.counts(20) == [1, 10, 20]


def asked(*tasks, **changes):
    return Benchmarks.model_validate({"tasks": tasks or ["humaneval"]} | changes)


def test_nothing_is_run_that_was_not_allowed():
    with pytest.raises(
        RecipeError, match=r"x\.tasks: 'mbpp' runs programs .* --allow-code"
    ) as told:
        _code.check(["piqa", "mbpp"], asked("mbpp"), "x.")
    assert "allow_code: true" in str(told.value)
    _code.check(["piqa"], asked("piqa"), "x.")
    with pytest.raises(RecipeError, match=r"x\.samples: it belongs to humaneval and mbpp"):
        _code.check(["piqa"], asked("piqa", samples=2), "x.")


def test_another_lock_or_number_of_answers_is_another_figure():
    plain = _code.settings(asked())
    assert plain != _code.settings(asked(samples=2))
    assert plain != _code.settings(asked(isolation="syscalls"))
    assert plain == _code.settings(asked(allow_code=True, limit=3))


def test_mbpp_has_the_three_examples_of_its_paper():
    lines = tiny_text.shared("mbpp/prompt.jsonl").read_text(encoding="utf-8").splitlines()
    found = _code.examples([json.loads(line) for line in lines])
    assert [row["task_id"] for row in found[:3]] == [2, 3, 4]
