"""Ten thousand prompts through a server that fails in every way, and through a real one, killed again and again."""

import collections
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import tiny_generation as tiny
import tiny_server

from limbeck.generating import journal

pytestmark = pytest.mark.slow

CODE = "import sys; from limbeck import cli; cli.main()"
COUNT, KILLS, AT_ONCE = 10_000, 50, 16
PRICE = 7 + 5  # of an answer, at one for a token
MODEL = Path(__file__).parents[2] / "models/SmolLM2-135M-Instruct"
# Those for which somebody may have been paid, and those for which nobody was.
PAID = ("reset", "cut", "html", "large 200000", "slow 1.5", "list", "surrogate")
FREE = ("status 429 0", "status 500", "status 503 0")
MAX_TOKENS = 8


def fault(prompt, n):
    """Every sixth prompt meets one or two faults, of a kind that belongs to it."""
    drawn = int(hashlib.sha256(prompt.encode()).hexdigest()[:8], 16)
    if drawn % 6 or n > (drawn // 6) % 2:
        return None
    kinds = PAID + FREE
    return kinds[(drawn // 12 + n) % len(kinds)]


def started(path, *more, key=tiny.CANARY):
    environment = {**os.environ, "THE_KEY": key}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, "generate", str(path), *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def killed(process, arrived, seconds):
    """Kills a process so long after something of it has arrived; what it said. Its command line holds no key."""
    before = arrived()
    while arrived() == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    line = Path(f"/proc/{process.pid}/cmdline")
    said = line.read_bytes() if line.exists() else b""
    process.kill()
    said += process.communicate()[0]
    assert tiny.CANARY.encode() not in said
    return process.returncode == -signal.SIGKILL


def test_nothing_is_lost_and_nothing_paid_twice_but_what_was_on_the_way(tmp_path):
    draw = random.Random(7)
    with tiny_server.serving(fault) as teacher:
        path = tiny.written(
            tmp_path,
            teacher.url,
            count=COUNT,
            teacher={"openai": {"url": teacher.url, "model": "tiny", "key": "THE_KEY"}},
            limits={
                "concurrency": AT_ONCE,
                "seconds_per_request": 1.0,
                "bytes_per_answer": 100_000,
                "tries": 6,
            },
            prices={"input_per_million": 1e6, "output_per_million": 1e6},
            spend={"cap": 1},
        )
        cap, capped, kills = COUNT * PRICE / 20, 0, 0
        while kills < KILLS:
            process = started(path, f"spend.cap={cap}")
            if killed(process, lambda: len(teacher.bodies), draw.uniform(0.0, 0.5)):
                kills += 1
            elif process.returncode:  # it came to the cap
                assert teacher.tokens_in + teacher.tokens_out <= cap
                cap, capped = cap * 1.5, capped + 1
            else:
                break
            assert teacher.tokens_in + teacher.tokens_out <= cap
        assert kills == KILLS
        assert capped >= 2, "the cap was met on the way"
        process = started(path, f"spend.cap={4 * COUNT * PRICE}")
        said = process.communicate()[0].decode()
        assert process.returncode == 0, said
        assert tiny.CANARY not in said
    answers = collections.Counter(row["prompt"] for row in tiny.answers(tmp_path))
    assert len(answers) == COUNT
    assert set(answers.values()) == {1}
    assert tiny.rows(tmp_path, "failed") == []
    faults = sum(
        fault(prompt, n) in PAID for prompt in teacher.asked for n in range(teacher.asked[prompt])
    )
    again = sum(teacher.answered.values()) - COUNT
    assert faults > 500
    assert again <= faults + KILLS * AT_ONCE
    told = journal.read(tmp_path / "out/journal.jsonl")
    assert teacher.tokens_in + teacher.tokens_out <= told.spent
    assert tiny.CANARY.encode() not in tiny.everything(tmp_path)
    print(
        f"{len(teacher.bodies):,} requests, {kills} kills, {faults:,} faults paid for, {again:,} answers beyond one each, {capped} caps"
    )


@pytest.fixture
def served(tmp_path):
    """transformers' own server with the real teacher, on loopback."""
    pytest.importorskip("fastapi", reason="transformers[serving] is not installed")
    if not (MODEL / "config.json").is_file():
        pytest.skip("models/SmolLM2-135M-Instruct is missing: run `limbeck fetch smollm2`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).parent / "transformers", "serve", "--host", "127.0.0.1"]
    with (tmp_path / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--device", "cpu", "--dtype", "bfloat16", str(MODEL)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_the_real_teacher_answers_every_prompt_once_through_ten_kills(served, tmp_path):
    draw = random.Random(3)
    path = tiny.written(
        tmp_path,
        served,
        count=200,
        teacher={"openai": {"url": served, "model": str(MODEL)}},
        sampling={"max_tokens": MAX_TOKENS},
        limits={"concurrency": 4, "seconds_per_request": 120},
    )
    out = tmp_path / "out/journal.jsonl"

    def arrived():
        return out.stat().st_size if out.is_file() else 0

    kills = sum(killed(started(path), arrived, draw.uniform(0.5, 4.0)) for _ in range(10))
    assert kills == 10
    before = len(journal.read(out).answers)
    assert 0 < before < 200
    process = started(path)
    said = process.communicate()[0].decode()
    assert process.returncode == 0, said
    answers = collections.Counter(row["prompt"] for row in tiny.answers(tmp_path))
    assert len(answers) == 200
    assert set(answers.values()) == {1}
    print(f"{before} of 200 prompts were answered through {kills} kills, the others after them")
