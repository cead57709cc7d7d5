"""How fast requests may follow one another: so many a minute, so many tokens a minute, and pauses that are asked for."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

_MINUTE = 60.0
LONGEST_WAIT = 60.0
"""Seconds of the longest pause between two tries of our own choosing."""


def retry_after(given: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None where it cannot be read."""
    if not given:
        return None
    try:
        seconds = float(given)
    except ValueError:
        try:
            wanted = email.utils.parsedate_to_datetime(given)
        except (ValueError, OverflowError):  # a day or a zone with more digits than a number has
            return None
        if wanted.tzinfo is None:
            wanted = wanted.replace(tzinfo=UTC)
        seconds = (wanted - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if seconds == seconds else None


def back_off(tried: int, first: float, draw: random.Random) -> float:
    """Seconds until the next try: twice as long each time, between half of that and one and a half."""
    return min(LONGEST_WAIT, first * 2.0 ** min(tried - 1, 30)) * (0.5 + draw.random())


class Pace:
    """Lets requests through in the order in which they come; in no minute are there more than were allowed."""

    def __init__(
        self,
        requests: int | None,
        tokens: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._clock = clock
        self._sent: deque[tuple[float, int]] = deque()
        self._in_window = 0
        self._held_until = 0.0
        self._turn = asyncio.Lock()

    def hold(self, seconds: float) -> None:
        """Lets nothing through for so long, since a limit is on the account and not on one request."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    def wait(self, tokens: int) -> float:
        """Seconds until a request of so many tokens may go; 0: now. One above the limit goes alone."""
        now = self._clock()
        while self._sent and self._sent[0][0] <= now - _MINUTE:
            self._in_window -= self._sent.popleft()[1]
        if now < self._held_until:
            return self._held_until - now
        wait = 0.0
        if self._requests is not None and len(self._sent) >= self._requests:
            wait = self._sent[-self._requests][0] + _MINUTE - now
        if self._tokens is not None:
            left = self._in_window + tokens - self._tokens
            for moment, size in self._sent:
                if left <= 0:
                    break
                left -= size
                wait = max(wait, moment + _MINUTE - now)
        return wait

    async def turn(self, tokens: int, rest: Callable[[float], Awaitable[bool]]) -> bool:
        """Waits for a turn and takes it. rest: waits so long, and says whether to give up; then False."""
        async with self._turn:
            while wait := self.wait(tokens):
                if await rest(wait):
                    return False
            self._sent.append((self._clock(), tokens))
            self._in_window += tokens
            return True
