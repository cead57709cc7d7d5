"""Workers end with their parent, at whatever moment it is killed; what they finished is kept, and used once."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest
import tiny_folder
import tiny_text

from limbeck.data.prepare import prepare

PREPARED = """
import sys, tiny_text
from limbeck.data import parts
from limbeck.data.prepare import prepare
parts.SMALLEST = 20_000
prepare(tiny_text.tokenizer(), sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""


def begun(place, workers):
    """Preparing in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", PREPARED, place / "rows.jsonl", place / "out", str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", *sys.path])},
    )


@pytest.fixture
def place(tmp_path):
    """A text of some 40 parts."""
    texts = tiny_folder.sentences(7000, seed=3)
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    return tmp_path


def whole(place):
    """What one process makes of it at once."""
    prepare(tiny_text.tokenizer(), place / "rows.jsonl", place / "whole")
    return tiny_folder.contents(place / "whole")


def number(place):
    """How many parts are there."""
    return len(list(place.glob("out/*.parts/0*")))


def children(process):
    """The processes that it started, while it lives."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(place):
    """SIGKILL of the parent alone: the workers see it and end by themselves."""
    kills, seen = 0, []
    for wanted in (0, 1, 9, 20, 30):
        work = begun(place, 2)
        while work.poll() is None and (number(place) < wanted or not children(work)):
            time.sleep(0.001)
        left = children(work)
        kills += work.poll() is None
        work.kill()
        work.communicate()
        assert not psutil.wait_procs(left, timeout=60)[1]
        seen.append(number(place))
    assert kills >= 4
    assert seen == sorted(seen)
    last = begun(place, 2)
    said = last.communicate()[1]
    assert last.returncode == 0, said
    assert "parts were there already" in said
    assert tiny_folder.contents(place / "out") == whole(place)


@pytest.mark.parametrize("workers", [1, 2])
def test_two_at_once_end_with_one_folder(place, workers):
    both = [begun(place, workers) for _ in range(2)]
    for one in both:
        said = one.communicate()[1]
        assert one.returncode == 0, said
    assert tiny_folder.contents(place / "out") == whole(place)
