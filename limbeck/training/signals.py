"""Signals set a flag that every long loop polls; nothing is saved inside a handler."""

from __future__ import annotations

import os
import signal
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SAID = (1, 2)  # standard output and standard error


def _forked() -> None:
    """In a child, such as a worker of a pool: who made it ends it with SIGTERM; what a whole group is sent, that one answers."""
    for number in WATCHED:
        if isinstance(getattr(signal.getsignal(number), "__self__", None), Stop):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else _unheard)


def _unheard(number: int, frame: FrameType | None) -> None:
    """No SIG_IGN, which a program that the child becomes would inherit."""


os.register_at_fork(after_in_child=_forked)  # once: it does nothing where no Stop listens


class Stop:
    """True once the process was asked to stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._terminals: list[int] = []

    def __call__(self) -> bool:
        """Whether to stop at the next safe place."""
        return self.reason is not None

    def install(self) -> Stop:
        """Listens to SIGINT, SIGTERM, SIGUSR1 (Slurm sends it before the time is over) and SIGHUP (a terminal was closed).

        Under nohup, which ignores SIGHUP, it stays ignored.
        """
        self._terminals = [number for number in _SAID if os.isatty(number)]
        for number in WATCHED:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._asked)
        return self

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        if number == signal.SIGHUP:
            self._mute()
        self.reason = signal.Signals(number).name

    def _mute(self) -> None:
        """What is said to a terminal that is gone would be an error, before anything is saved."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for terminal in self._terminals:
            os.dup2(nowhere, terminal)
        os.close(nowhere)
