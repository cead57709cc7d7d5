"""kill -9 at any moment: the set becomes complete, and nothing is asked twice but what was on the way."""

import random
import signal
import subprocess
import sys
import time

import tiny_generation as tiny
import tiny_server

from limbeck.generating import journal

CODE = "import sys; from limbeck import cli; cli.main()"
COUNT, AT_ONCE = 60, 3


def test_a_killed_generation_goes_on_and_pays_twice_for_what_was_on_the_way_only(tmp_path):
    draw = random.Random(4)
    prices = {"input_per_million": 1e6, "output_per_million": 1e6}
    with tiny_server.serving(delay=0.05) as teacher:
        path = tiny.written(
            tmp_path,
            teacher.url,
            count=COUNT,
            limits={"concurrency": AT_ONCE},
            prices=prices,
            spend={"cap": 9000},
        )
        kills = 0
        for earliest in (0.0, 0.03, 0.06, 0.09):
            kills += killed(path, teacher, earliest + draw.uniform(0.0, 0.04))
        assert kills >= 2  # a busy machine may let one come to its end
        told = journal.read(tmp_path / "out/journal.jsonl")
        assert 0 < len(told.answers) < COUNT
        done = subprocess.run([sys.executable, "-c", CODE, "generate", path], capture_output=True)
        assert done.returncode == 0, done.stderr
    assert sorted(row["prompt"] for row in tiny.answers(tmp_path)) == sorted(teacher.asked)
    assert len(teacher.asked) == COUNT
    again = sum(teacher.asked.values()) - COUNT
    assert again <= kills * AT_ONCE
    told = journal.read(tmp_path / "out/journal.jsonl")
    assert teacher.tokens_in + teacher.tokens_out <= told.spent


def killed(path, teacher, seconds):
    """Starts one and kills it so long after its first request arrived."""
    before = len(teacher.bodies)
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "generate", path],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while len(teacher.bodies) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(seconds)
    process.kill()
    return process.wait() == -signal.SIGKILL
