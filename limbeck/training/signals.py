"""Signals set a flag that every long loop polls; nothing is saved inside a handler."""

from __future__ import annotations

import signal
from types import FrameType

WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stop:
    """True once the process was asked to stop. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __call__(self) -> bool:
        """Whether to stop at the next safe place."""
        return self.reason is not None

    def install(self) -> Stop:
        """Listens to SIGINT, SIGTERM and SIGUSR1 (Slurm sends the latter before the time is over)."""
        for number in WATCHED:
            signal.signal(number, self._asked)
        return self

    def _asked(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason == "SIGINT":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
