"""One node's ranks end with a status that tells a stop from a failure, whoever else is signalled."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
from slurm_daemon import free_port

# Rank 0 answers to a signal as Limbeck does; the others wait for it, as they would at the end of saving.
RANK = """\
import os, pathlib, signal, sys, time
told = pathlib.Path(sys.argv[1])
if sys.argv[2] != "75":
    sys.exit(int(sys.argv[2]))
asked = []
for number in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(number, lambda *_: asked.append(1))
(told / os.environ["RANK"]).touch()
while not asked:
    time.sleep(0.01)
time.sleep(0.2)
(told / ("saved-" + os.environ["RANK"])).touch()
sys.exit(75)
"""


@pytest.fixture
def started(tmp_path):
    """Starts two ranks on this node, each a small program: (the process above them, where they tell)."""
    processes = []

    def start(status):
        program = tmp_path / "rank.py"
        program.write_text(RANK)
        words = ["--nnodes", "1", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
        words += ["--master-port", str(free_port()), str(program), str(tmp_path), str(status)]
        ranks = [sys.executable, "-m", "limbeck.launching.ranks", *words]
        processes.append(subprocess.Popen(ranks, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_ranks_that_every_process_is_signalled_with_save_and_end_as_stopped(
    started, tmp_path, number
):
    process = started(75)
    end = time.monotonic() + 120
    while not all((tmp_path / rank).exists() for rank in "01"):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    # From below: as Slurm does, in any order.
    for one in [*psutil.Process(process.pid).children(recursive=True), process]:
        one.send_signal(number)
    assert process.wait(120) == 75
    assert all((tmp_path / f"saved-{rank}").exists() for rank in "01")


@pytest.mark.parametrize(("status", "found"), [(0, 0), (2, 1)])
def test_ranks_that_end_or_fail_say_so(started, status, found):
    process = started(status)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == found
    assert ("ended with status 2" in said) == (status == 2)
