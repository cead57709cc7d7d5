"""A signal sets a flag; a second Ctrl-C stops at once; whoever lost the terminal can still say something and save."""

import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from limbeck.training.signals import WATCHED, Stop


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in WATCHED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT])
def test_a_signal_sets_the_flag_and_nothing_else(number):
    stop = Stop().install()
    assert not stop()
    os.kill(os.getpid(), number)
    assert stop()
    assert stop.reason == number.name


def test_a_second_ctrl_c_stops_at_once():
    stop = Stop().install()
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert stop()


WORKS = """
import sys, time
from limbeck.training.signals import Stop
stop = Stop().install()
print("ready", flush=True)
while not stop():
    time.sleep(0.01)
for stream in (sys.stdout, sys.stderr):
    print("saving", file=stream, flush=True)
open(sys.argv[1], "w").write(stop.reason)
"""


def test_where_the_terminal_is_closed_the_work_is_saved_first(tmp_path):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", WORKS, str(tmp_path / "saved")])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1024)
    os.close(terminal)
    end = time.monotonic() + 30
    while os.waitpid(child, os.WNOHANG) == (0, 0) and time.monotonic() < end:
        time.sleep(0.02)
    assert (tmp_path / "saved").read_text() == "SIGHUP"


def test_what_nohup_ignores_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop().install()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop()


POOLS = """
import multiprocessing, os, sys
from limbeck.training.signals import Stop
stop = Stop().install()
for _ in range(60):
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert list(pool.imap(abs, range(3))) == [0, 1, 2]
print("ended", flush=True)
"""


def test_a_pool_that_is_forked_meanwhile_can_be_ended():
    done = subprocess.run([sys.executable, "-c", POOLS], capture_output=True, text=True, timeout=100)  # fmt: skip
    assert done.stdout == "ended\n", done.stderr


HEARD = """
import os, signal, sys, time
from limbeck.training.signals import Stop
stop = Stop().install()
child = os.fork()
if child == 0:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
time.sleep(1)
for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    os.kill(child, number)
time.sleep(0.3)
assert os.waitpid(child, os.WNOHANG) == (0, 0)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), stop.reason)
"""


def test_a_forked_child_leaves_what_a_group_is_sent_to_its_parent():
    done = subprocess.run([sys.executable, "-c", HEARD], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["ready", "-15", "None"], done.stderr
