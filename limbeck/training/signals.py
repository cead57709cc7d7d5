"""Signals set a flag that every long loop polls; nothing is saved inside a handler."""

from __future__ import annotations

import os
import signal
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
_SAID = (1, 2)  # standard output and standard error


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
