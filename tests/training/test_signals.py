"""A signal sets a flag; a second Ctrl-C stops at once."""

import os
import signal

import pytest

from limbeck.training.signals import WATCHED, Stop


@pytest.fixture(autouse=True)
def _handlers():
    before = {number: signal.getsignal(number) for number in WATCHED}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
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
