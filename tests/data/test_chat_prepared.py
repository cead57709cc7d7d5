"""Conversations are prepared whole or not at all, and what is left out of them is named or counted."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import tiny_chat
import tiny_folder
import tiny_text
from tiny_chat import TALKS, TOKENIZER, answers, counts, said, source

from limbeck.data.renderer import Renderer
from limbeck.errors import DataError
from limbeck.sources.chat import chat


def test_a_bad_line_is_named_or_set_aside_with_what_else_there_is(tmp_path):
    rows = [*TALKS, {"messages": [{"role": "wizard", "content": "a"}]}, {"body": "b"}]
    with pytest.raises(DataError, match=r"rows\.jsonl:5: messages\[0\] is of 'wizard'.*quarantine"):
        source(tmp_path, rows)
    assert not list((tmp_path / "prepared").iterdir())
    data = source(tmp_path, rows, hostile="quarantine")
    assert answers(data) == said()
    assert counts(tmp_path)["quarantined"] == 2
    (aside,) = (tmp_path / "prepared").glob("*/quarantine.jsonl")
    assert [json.loads(line)["line"] for line in aside.read_text().splitlines()] == [5, 6]


def test_a_turn_that_the_template_refuses_is_a_bad_line(tmp_path):
    gemma = tiny_chat.tokenizer(tiny_chat.GEMMA)
    rows = [tiny_chat.messages("a", "b"), tiny_chat.messages("a", "b", system="s")]
    with pytest.raises(DataError, match=r":2: the template refuses it \(System role"):
        source(tmp_path, rows, gemma)


LONG = tiny_chat.messages(*[f"question {n} of many" if n % 2 == 0 else f"answer {n}" for n in range(12)], system="Be short.")  # fmt: skip


def test_what_is_too_long_loses_its_first_exchanges_and_keeps_the_systems_words(tmp_path):
    data = source(tmp_path, [LONG])
    found = answers(data)
    assert 1 <= len(found) < 6
    last = [m["content"] for m in LONG if m["role"] == "assistant"][-len(found) :]
    assert found == sorted(f"{one}<|im_end|>" for one in last)
    whole = TOKENIZER.decode(data.batch([0]).input_ids[0])
    assert whole.startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nquestion")
    assert "answer 11<|im_end|>" in whole
    assert counts(tmp_path)["shortened"] == 1
    # One exchange more would not have fitted.
    kept = LONG[:1] + LONG[-2 * len(found) - 2 :]
    assert len(TOKENIZER.apply_chat_template(kept, tokenize=True, return_dict=False)) > 128


def test_what_is_too_long_is_left_out_and_counted_or_refused(tmp_path):
    data = source(tmp_path, [LONG, *TALKS], too_long="drop")
    assert answers(data) == said()
    assert counts(tmp_path)["too_long"] == 1
    with pytest.raises(DataError, match=r":1: \d+ tokens, and a row has 128"):
        source(tmp_path, [LONG, *TALKS], too_long="error")
    huge = tiny_chat.messages("a" * 300, "b")
    assert answers(source(tmp_path, [huge, *TALKS], length=100)) == said()


def test_without_a_template_it_is_said_what_to_do(tmp_path):
    bare = tiny_text.tokenizer()
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .* no chat template.*chatml, plain"):
        source(tmp_path, tokenizer=bare, hostile="quarantine")
    assert answers(source(tmp_path, tokenizer=bare, template="chatml"), bare) == said()
    assert source(tmp_path, [{"text": "Some text."}], bare, length=16).rows == 1


@pytest.mark.parametrize("of", ["a", "What is kept?"])
def test_a_template_that_does_not_end_stops_the_work(tmp_path, monkeypatch, of):
    """Of the probe, or of the first row."""
    monkeypatch.setitem(Renderer.__init__.__kwdefaults__, "seconds", 0.3)
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    slow = "{% if messages[0].content == '" + of + "' %}" + loop + "{% endif %}"
    (tmp_path / "slow.jinja").write_text(slow)
    with pytest.raises(DataError, match=r"rows\.jsonl:1: .*slow\.jinja: .*still running"):
        source(tmp_path, template=str(tmp_path / "slow.jinja"), hostile="quarantine")


KILLED = """
import sys, tiny_chat
from limbeck.sources.chat import chat
chat(tiny_chat.tokenizer(), path=sys.argv[1], length=128, prepared=sys.argv[2])
"""


def test_killed_at_any_moment_it_ends_in_the_same_bytes(tmp_path):
    rows = [tiny_chat.messages(one, two) for one, two in zip(*[iter(tiny_folder.sentences(3000, seed=1))] * 2, strict=True)]  # fmt: skip
    path = tiny_chat.written(tmp_path / "rows.jsonl", *rows)
    chat(TOKENIZER, path=path, length=128, prepared=str(tmp_path / "whole"))
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, path, str(folder)]
    for seconds in (0.0, 0.1, 0.3, 0.5):
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": "tests"}, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not list(folder.glob(".partial-*")):
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    chat(TOKENIZER, path=path, length=128, prepared=str(folder))
    assert tiny_folder.contents(folder) == tiny_folder.contents(tmp_path / "whole")
