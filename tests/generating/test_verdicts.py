"""A judge scores what filters have left, is asked once about each, and is believed only in its own schema."""

import re

import pytest
import tiny_generation as tiny
import tiny_server

from limbeck.generating.judging import _verdict, _wanted
from limbeck.generating.settings import Generation
from limbeck.sampling.answers import Answer

pytestmark = pytest.mark.usefixtures("handlers")
PRICES = {"input_per_million": 1e6, "output_per_million": 1e6}


def number(prompt):
    return int(re.search(r"What is (\d+)\?", prompt)[1])


def score(prompt, _n):
    """Small numbers are good answers; of number 11 nothing is said that is a verdict."""
    return (
        "say It is fine."
        if number(prompt) == 11
        else f'say {{"score": {10 - number(prompt) // 2}}}'
    )


def recipe(place, served, judge, **changes):
    told = {"teacher": {"openai": {"url": judge.url, "model": "judge"}}, "least": 8} | changes
    return tiny.written(place, served.url, judge=told)


def test_answers_below_the_least_score_are_left_out_and_nobody_is_asked_twice(tmp_path):
    with tiny_server.serving() as teacher, tiny_server.serving(score) as judge:
        path = recipe(tmp_path, teacher, judge)
        assert "12 answered, 0 failed" in tiny.run(path)
        kept = {number(row["prompt"]): row["score"] for row in tiny.answers(tmp_path)}
        assert kept == {n: 10 - n // 2 for n in range(6)}
        left_out = {number(row["prompt"]): row["reason"] for row in tiny.rows(tmp_path, "filtered")}
        assert left_out[6] == "a score of 7, below 8"
        assert left_out[11] == "no verdict: 'It is fine.'"
        assert {row["filter"] for row in tiny.rows(tmp_path, "filtered")} == {"judge"}
        assert sum(judge.asked.values()) == 12
        assert judge.bodies[0]["temperature"] == 0
        tiny.run(path, "judge.least=9")
        assert len(tiny.answers(tmp_path)) == 4
        assert (sum(judge.asked.values()), sum(teacher.asked.values())) == (12, 12)


def test_a_judge_whose_money_is_spent_lets_nothing_through_and_goes_on(tmp_path):
    with tiny_server.serving() as teacher, tiny_server.serving(score, tokens=(500, 5)) as judge:
        path = recipe(tmp_path, teacher, judge, prices=PRICES, spend={"cap": 4000})
        said = tiny.refused(path)
        assert "judge.spend.cap is reached" in said
        assert not (tmp_path / "out/train.jsonl").exists()
        asked = sum(judge.asked.values())
        assert 0 < asked < 12
        tiny.run(path, "judge.spend.cap=100000")
        assert sum(judge.asked.values()) == 12
        assert len(tiny.answers(tmp_path)) == 6


def test_what_a_judge_needs_is_told_before_the_teacher_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with tiny_server.serving() as teacher, tiny_server.serving(score) as judge:
        for changes, told in (
            ({"teacher": {"openai": {"url": judge.url, "model": "j", "key": "NO_SUCH_KEY"}}}, "NO_SUCH_KEY"),
            ({"teacher": {"openai": {"url": "http://example.com/v1", "model": "j"}}}, "judge.teacher.openai.url"),
            ({"question": "Is it good?"}, "judge.question"),
            ({"least": 11}, "judge.least"),
            ({"spend": {"cap": 5}}, "judge: spend.cap needs prices"),
        ):  # fmt: skip
            assert told in tiny.refused(recipe(tmp_path, teacher, judge, **changes))
        assert not teacher.bodies
        dry = tiny.run(recipe(tmp_path, teacher, judge), dry_run=True)
        assert "judge: a request, of 64 tokens out at most" in dry
        assert not judge.bodies


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"score": 7}', 7),
        ('```json\n{"score": 10}\n```', 10),
        ('<think>Hm: {"score": 10}?</think>{"score": 2}', 2),
        ('{"score": 11}', 0),
        ('{"score": "9"}', 0),
        ('{"score": 9.0}', 0),
        ('{"score": true}', 0),
        ('{"score": 9, "because": "I was told so"}', 0),
        ('The score is {"score": 9}', 0),
        ('{"score": 9}{"score": 1}', 0),
        ("", 0),
    ],
)
def test_a_verdict_is_its_schema_and_nothing_else(text, found):
    score, reason = _verdict(Answer(text), "")
    assert score == found
    assert reason.startswith("no verdict") == (found == 0)


def test_braces_in_what_was_said_are_not_filled(tmp_path):
    told = tiny.tree(tmp_path, "http://127.0.0.1:1/v1", judge={
        "teacher": {"openai": {"url": "http://127.0.0.1:1/v1", "model": "j"}}, "question": "{prompt}|{response}|{prompt}",
    })  # fmt: skip
    asked = Generation.model_validate(told)
    row = {"prompt": "a {response}", "response": "b {prompt}"}
    assert _wanted(asked, asked.judge, row).prompt.text == "a {response}|b {prompt}|a {response}"
