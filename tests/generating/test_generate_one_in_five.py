"""Invariant 72: a server that fails at one call in five costs no answer, and nothing is asked twice."""

import itertools

import pytest
import tiny_generation as tiny
import tiny_server
from tiny_generation import CANARY

pytestmark = pytest.mark.usefixtures("handlers")


def test_one_call_in_five_fails_and_every_prompt_is_answered_or_listed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CANARY_KEY", CANARY)
    calls, failed = itertools.count(1), []

    def faults(prompt, _n):
        if next(calls) % 5:
            return "say You sent KEY."
        failed.append(prompt)
        return "status 500"

    with tiny_server.serving(faults) as teacher:
        path = tiny.written(tmp_path, teacher.url, count=40)
        said = tiny.run(path, "teacher.openai.key=CANARY_KEY")
        asked = sum(teacher.asked.values())
        again = tiny.run(path, "teacher.openai.key=CANARY_KEY")
        assert sum(teacher.asked.values()) == asked, "a rerun asks nobody again"
    listed = [row["prompt"] for row in tiny.rows(tmp_path, "failed")]
    answered = [row["prompt"] for row in tiny.answers(tmp_path)]
    assert sorted([*answered, *listed]) == sorted(f"What is {n}?" for n in range(40))
    assert asked == 40 + len(failed) - len(set(failed) & set(listed))
    assert len(failed) >= 8
    told = capsys.readouterr()
    for place in (
        said,
        again,
        told.out,
        told.err,
        tiny.everything(tmp_path).decode(errors="replace"),
    ):
        assert CANARY not in place
        assert "canary-7f" not in place
