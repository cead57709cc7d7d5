"""A key goes to one origin and is in nothing that is written; a server that will not serve is left alone."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_generation as tiny
import tiny_server
from tiny_generation import CANARY

pytestmark = pytest.mark.usefixtures("handlers")


@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_a_key_is_in_no_file_line_error_or_command(tmp_path, shape):
    """The server says the key in answers, in errors and in headers."""
    seen = []

    def faults(prompt, n):
        if prompt == "What is 1?":
            return "status 400"
        if prompt == "What is 2?" and n == 0:
            return "status 500"
        if prompt == "What is 3?":
            seen.append(command_lines())
        return "say You sent KEY."

    code = "import sys, logging; logging.basicConfig(level=1); from limbeck import cli; cli.main()"
    with tiny_server.serving(faults) as teacher:
        path = tiny.written(tmp_path, teacher.url, shape=shape)
        words = ["generate", str(path), f"teacher.{shape}.key=CANARY_KEY"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "CANARY_KEY": CANARY},
            capture_output=True,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    header = teacher.headers[0].get("Authorization") or teacher.headers[0]["x-api-key"]
    assert header.endswith(CANARY)
    assert b"CANARY_KEY" in seen[0]
    assert b"[CANARY_KEY]" in tiny.everything(tmp_path)
    for place in (tiny.everything(tmp_path), done.stdout, done.stderr, *seen):
        assert CANARY.encode() not in place
        assert b"canary-7f" not in place


def command_lines():
    """The words of every process that can be seen."""
    found = b""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += path.read_bytes()
    return found


def test_a_redirect_to_another_origin_is_refused_and_nothing_more_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY_KEY", CANARY)
    with tiny_server.serving() as thief:
        with tiny_server.serving(
            dict.fromkeys(range(9), f"redirect {thief.url}/chat/completions")
        ) as teacher:
            path = tiny.written(tmp_path, teacher.url, limits={"concurrency": 1})
            said = tiny.refused(path, "teacher.openai.key=CANARY_KEY")
        assert thief.headers == []
    assert "no redirect is followed" in said
    assert len(teacher.headers) == 1


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_server_that_refuses_us_is_asked_once(tmp_path, status):
    with tiny_server.serving(dict.fromkeys(range(9), f"status {status}")) as teacher:
        path = tiny.written(tmp_path, teacher.url, limits={"concurrency": 1})
        assert tiny.refused(path).startswith(f"status {status}")
        assert len(teacher.bodies) == 1
        teacher.faults = lambda *_: None
        assert "12 answered, 0 failed" in tiny.run(path)


def test_a_server_that_fails_at_everything_is_left_alone(tmp_path):
    with tiny_server.serving({0: "status 400"}) as teacher:
        said = tiny.refused(tiny.written(tmp_path, teacher.url, count=60))
    assert "20 requests in a row failed" in said
    assert len(teacher.bodies) < 30


def test_a_retry_after_that_no_clock_can_hold_is_a_failure_as_any(tmp_path):
    """Such as a day of twenty digits, which overflows and is no ValueError."""
    wait = f"Mon, {'9' * 20} Jan 2024 00:00:00 GMT"
    with tiny_server.serving({0: f"status 429 {wait}"}) as teacher:
        assert "12 answered, 0 failed" in tiny.run(tiny.written(tmp_path, teacher.url))


def test_a_folder_that_is_somebodys_is_left_as_it_is(tmp_path):
    own = tmp_path / "out/train.jsonl"
    own.parent.mkdir()
    own.write_text("the work of a year")
    with tiny_server.serving() as teacher:
        said = tiny.refused(tiny.written(tmp_path, teacher.url))
        assert not teacher.bodies
    assert "holds train.jsonl, and no journal.jsonl of a generation" in said
    assert [path.name for path in own.parent.iterdir()] == ["train.jsonl"]
    assert own.read_text() == "the work of a year"
