"""Whole generations from a real server on loopback: every prompt is answered once or listed, and nothing is lost."""

import collections
import email.utils
import json
import os
import signal
import sys
import threading
import time

import pytest
import tiny_generation as tiny
import tiny_server
import tiny_text

from limbeck import cli, files
from limbeck.data.layouts import example
from limbeck.folder import beside, locked
from limbeck.sources.chat import chat

pytestmark = pytest.mark.usefixtures("handlers")
PRICES = {"input_per_million": 1e6, "output_per_million": 1e6}
"""A token costs 1."""


@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_every_prompt_is_answered_and_split_by_its_text(tmp_path, shape):
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url, shape=shape, sampling={"n": 2})
        said = tiny.run(path)
    assert "24 answered, 0 failed, 0 left" in said
    assert all(count == 2 for count in teacher.asked.values())
    rows = tiny.answers(tmp_path)
    assert len(rows) == 24
    for row in rows:
        assert row["response"] == tiny_server.SAID + row["prompt"]
        assert (row["category"], row["language"], row["tokens"]) == ("numbers", "en", 5)
        assert [turn.role for turn in example(row).turns] == ["user", "assistant"]
    train, held_out = (
        {row["prompt"] for row in tiny.rows(tmp_path, name)} for name in ("train", "held_out")
    )
    assert train
    assert held_out
    assert not train & held_out
    assert files.verify(tmp_path / "out").about["rows"]["train"] == 2 * len(train)


def test_the_two_shapes_say_what_their_servers_want(tmp_path):
    for shape in ("openai", "anthropic"):
        place = tmp_path / shape
        place.mkdir()
        with tiny_server.serving() as teacher:
            tiny.run(
                tiny.written(
                    place, teacher.url, shape=shape, count=1, prompts={"system": "Be kind."}
                )
            )
        (body,) = teacher.bodies
        assert body["max_tokens"] == 5
        assert (body["temperature"], body["top_p"]) == (0.8, 0.95)
        if shape == "openai":
            assert teacher.paths == ["/v1/chat/completions"]
            assert body["messages"][0] == {"role": "system", "content": "Be kind."}
        else:
            assert teacher.paths == ["/v1/messages"]
            assert body["system"] == "Be kind."
            assert teacher.headers[0]["anthropic-version"] == "2023-06-01"
        assert tiny.answers(place)[0]["system"] == "Be kind."


def test_a_student_reads_what_was_written(tmp_path):
    with tiny_server.serving() as teacher:
        tiny.run(tiny.written(tmp_path, teacher.url))
    for split in ("train", "held_out"):
        source = chat(
            tiny_text.tokenizer(),
            path=str(tmp_path / "out"),
            length=128,
            template="chatml",
            split=split,
            prepared=str(tmp_path / "prepared"),
        )
        assert source.rows > 0


def test_a_rerun_asks_for_nothing_and_more_draws_ask_for_the_new_ones_only(tmp_path):
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url)
        tiny.run(path)
        before = (tmp_path / "out/train.jsonl").read_bytes()
        tiny.run(path)
        assert sum(teacher.asked.values()) == 12
        assert (tmp_path / "out/train.jsonl").read_bytes() == before
        tiny.run(path, "sampling.n=2")
    assert sum(teacher.asked.values()) == 24
    assert len({row["id"] for row in tiny.answers(tmp_path)}) == 24


def test_every_fault_is_overcome_or_listed(tmp_path):
    soon = email.utils.formatdate(time.time(), usegmt=True)
    kinds = [
        *("status 429 0", f"status 503 {soon}", "status 500", "status 408", "cut", "reset", "html"),
        *("list", "fields", "twice", "surrogate", "large 2000000", "slow 0.6", "drip 2"),
    ]
    final = {"What is 20?": "status 400", "What is 21?": "say ", "What is 22?": "html"}

    def faults(prompt, n):
        if prompt in final:
            return final[prompt]
        number = int(prompt.strip("?").split()[-1])
        return kinds[number % len(kinds)] if n == 0 else None

    limits = {"seconds_per_request": 0.4, "bytes_per_answer": 1_000_000, "tries": 3}
    with tiny_server.serving(faults) as teacher:
        said = tiny.run(tiny.written(tmp_path, teacher.url, count=24, limits=limits))
    assert "21 answered, 3 failed, 0 left" in said
    failed = {row["prompt"]: row["reason"] for row in tiny.rows(tmp_path, "failed")}
    assert failed.keys() == final.keys()
    assert failed["What is 20?"].startswith("status 400")
    assert failed["What is 21?"].startswith("an empty answer")
    assert "text/html" in failed["What is 22?"]
    assert [teacher.asked[prompt] for prompt in final] == [1, 1, 3]
    others = collections.Counter(n for prompt, n in teacher.asked.items() if prompt not in final)
    assert others == {2: 21}
    everyone = [row["prompt"] for row in tiny.answers(tmp_path)] + list(failed)
    assert sorted(everyone) == sorted(teacher.asked)


def test_what_failed_is_asked_again_and_what_was_empty_is_not(tmp_path):
    down = [True]

    def faults(prompt, _n):
        if prompt == "What is 3?":
            return "say <think>only thoughts"
        return "status 500" if down[0] and prompt == "What is 5?" else None

    with tiny_server.serving(faults) as teacher:
        path = tiny.written(tmp_path, teacher.url, limits={"tries": 2})
        assert "10 answered, 2 failed" in tiny.run(path)
        down[0] = False
        assert "11 answered, 1 failed" in tiny.run(path)
    assert teacher.asked["What is 3?"] == 1
    assert "nothing but thoughts" in tiny.rows(tmp_path, "failed")[0]["reason"]


def test_a_pause_that_a_server_asks_for_is_kept_by_all(tmp_path):
    with tiny_server.serving(
        lambda p, n: "status 429 1" if (p, n) == ("What is 0?", 0) else None
    ) as teacher:
        tiny.run(tiny.written(tmp_path, teacher.url, limits={"concurrency": 1}))
    gaps = [
        after - before for before, after in zip(teacher.moments, teacher.moments[1:], strict=False)
    ]
    assert gaps[0] >= 0.99
    with tiny_server.serving({0: "status 429 9999"}) as teacher:
        said = tiny.refused(tiny.written(tmp_path, teacher.url, seed=1, limits={"concurrency": 1}))
    assert "left alone for 9,999 seconds" in said
    assert len(teacher.moments) == 1


@pytest.mark.parametrize("fault", [None, "cut", "reset", "html", "list", "status 500"])
def test_spend_is_never_above_the_cap_as_the_server_counts(tmp_path, fault):
    faults = (lambda _p, n: fault if n % 2 == 0 else None) if fault else None
    # A request reserves 12 + 64 bytes and 5 tokens, and a broken one is taken to have cost that; the server says 7 + 5.
    cap = 300 if fault in (None, "status 500") else 1000
    with tiny_server.serving(faults) as teacher:
        path = tiny.written(
            tmp_path, teacher.url, count=40, prices=PRICES, spend={"cap": cap}, limits={"tries": 9}
        )
        said = tiny.refused(path)
        assert said.startswith("spend.cap is reached: ")
        assert teacher.tokens_in + teacher.tokens_out <= cap
        first = sum(teacher.asked.values())
        assert 0 < len(tiny.answers(tmp_path)) < 40
        tiny.refused(path)
        assert sum(teacher.asked.values()) == first
        tiny.run(path, "spend.cap=100000")
        assert teacher.tokens_in + teacher.tokens_out <= 100000
    assert len(tiny.answers(tmp_path)) == 40


def test_a_server_that_counts_more_than_it_was_allowed_to_write_is_held_to_the_cap(tmp_path):
    told = {"prices": {"input_per_million": 0, "output_per_million": 1e6}, "spend": {"cap": 9000}}
    with tiny_server.serving(tokens=(7, 500)) as teacher:
        said = tiny.refused(tiny.written(tmp_path, teacher.url, count=40, **told))
    assert said.startswith("spend.cap is reached: ")
    assert teacher.tokens_out == 9000


def test_a_server_that_adds_a_prompt_of_its_own_is_over_the_cap_by_its_first_answers_alone(
    tmp_path,
):
    # It reads 500 tokens more than the prompts have, which two requests at a time find out at once.
    with tiny_server.serving(tokens=(583, 5)) as teacher:
        told = {"prices": PRICES, "limits": {"concurrency": 2}, "count": 40}
        path = tiny.written(tmp_path, teacher.url, spend={"cap": 200}, **told)
        tiny.refused(path)
        assert sum(teacher.asked.values()) == 2
        cap = 8 * 588 + 10
        tiny.refused(path, f"spend.cap={cap}")
        assert cap - 700 < teacher.tokens_in + teacher.tokens_out <= cap


def test_each_answer_has_a_seed_of_its_own_and_the_same_in_every_run(tmp_path):
    seeds = []
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        with tiny_server.serving() as teacher:
            served = {"openai": {"url": teacher.url, "model": "tiny", "seeds": True}}
            tiny.run(tiny.written(tmp_path / place, "", whole=served, sampling={"n": 2}))
        seeds.append({(body["messages"][0]["content"], body["seed"]) for body in teacher.bodies})
    assert seeds[0] == seeds[1]
    assert len({seed for _, seed in seeds[0]}) == 24
    assert all(0 <= seed < 2**31 for _, seed in seeds[0])


def test_a_dry_run_tells_the_cost_and_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url, prices=PRICES, spend={"cap": 300})
        said = tiny.run(path, "teacher.openai.key=NO_SUCH_KEY", dry_run=True)
    assert not teacher.bodies
    assert not (tmp_path / "out").exists()
    assert "12 prompts x 1 = 12 answers" in said
    assert "at most 60 out" in said
    assert "spend.cap 300: suffices by the estimate, not by the worst case" in said
    assert "suffices" in tiny.run(path, "spend.cap=5000", dry_run=True).splitlines()[-2]
    assert "does not suffice" in tiny.run(path, "spend.cap=100", dry_run=True)


def test_requests_of_a_minute_are_no_more_than_allowed_and_a_stop_is_heard(tmp_path):
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url, limits={"requests_per_minute": 3})
        timer = threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        said = tiny.refused(path)
        assert len(teacher.bodies) == 3
        assert said.startswith("Stopped: 3 answered, 0 failed, 9 left")
        assert not (tmp_path / "out/train.jsonl").exists()
        tiny.run(path, "limits.requests_per_minute=null")
    assert set(teacher.asked.values()) == {1}


def test_a_stop_waits_for_what_is_on_the_way(tmp_path, monkeypatch, capsys):
    with tiny_server.serving(delay=1.0) as teacher:
        path = tiny.written(tmp_path, teacher.url)
        monkeypatch.setattr(sys, "argv", ["limbeck", "generate", str(path)])

        def stop():
            while len(teacher.bodies) < 4:  # all that go at a time
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=stop, daemon=True).start()
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code == 75
    assert "4 answered, 0 failed, 8 left. Every answer is kept" in " ".join(
        capsys.readouterr().err.split()
    )
    assert sum(teacher.asked.values()) == 4


def test_a_second_process_is_kept_out(tmp_path):
    place = tmp_path / "out"
    with tiny_server.serving() as teacher, locked(place, beside(place), "Wait."):
        said = tiny.refused(tiny.written(tmp_path, teacher.url))
    assert "in use by another process" in said
    assert not teacher.bodies


def test_a_torn_line_is_cut_off_and_its_answer_asked_again(tmp_path, capsys):
    with tiny_server.serving() as teacher:
        path = tiny.written(tmp_path, teacher.url, limits={"concurrency": 1})
        tiny.run(path)
        journal = tmp_path / "out/journal.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        assert json.loads(lines[-1])["kind"] == "answer"
        journal.write_bytes(b"".join(lines)[:-9])
        tiny.run(path)
    assert "its last line was torn" in capsys.readouterr().err
    assert sum(teacher.asked.values()) == 13
    assert len(tiny.answers(tmp_path)) == 12
