"""Many requests at a time to one server: set aside, paced, sent, tried again, settled, and every end written down."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from limbeck.errors import LimbeckError
from limbeck.generating import journal as lines
from limbeck.generating.journal import Journal
from limbeck.generating.ledger import Ledger
from limbeck.generating.prompts import Wanted
from limbeck.generating.settings import Limits
from limbeck.progress import Progress
from limbeck.sampling.answers import Answer, Failure
from limbeck.sampling.http import Endpoint
from limbeck.sampling.pace import Pace, back_off

_POLL = 0.1
_MOST_IN_A_ROW = 20


@dataclass(frozen=True)
class Desk:
    """What the asking needs. stop: whether the process was asked to end."""

    journal: Journal
    ledger: Ledger
    limits: Limits
    max_tokens: int
    bar: Progress
    stop: Callable[[], bool]
    seed: int = 0


@dataclass
class _Ended:
    """Why nothing more is sent: '' while it is. row: failures since the last answer."""

    reason: str = ""
    row: int = 0


class Asking:
    """The requests of one run. After `all`, `ended` says why some were not sent, or ''."""

    def __init__(self, endpoint: Endpoint, desk: Desk) -> None:
        self._endpoint, self._desk = endpoint, desk
        self._pace = Pace(desk.limits.requests_per_minute, desk.limits.tokens_per_minute)
        self._draw = random.Random(desk.seed)  # noqa: S311 (no secret)
        self._state = _Ended()
        self._over = asyncio.Event()
        self._settled = asyncio.Condition()

    @property
    def ended(self) -> str:
        """Why something was left, or ''."""
        return self._state.reason

    async def all(self, wanted: Sequence[Wanted]) -> None:
        """Asks for each, until all have an end or nothing more may be sent; what is on the way is waited for."""
        queue = iter(wanted)
        watch = asyncio.create_task(self._watch())
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._desk.limits.concurrency, len(wanted))):
                    group.create_task(self._worker(queue))
        except* LimbeckError as several:
            raise several.exceptions[0] from None
        finally:
            watch.cancel()

    async def _watch(self) -> None:
        """Nothing is done in a signal's handler; here its flag is looked at."""
        while not self._desk.stop():
            await asyncio.sleep(_POLL)
        await self._end("stopped")

    async def _end(self, reason: str) -> None:
        self._state.reason = self._state.reason or reason
        self._over.set()
        async with self._settled:
            self._settled.notify_all()

    async def _rest(self, seconds: float) -> bool:
        """Waits so long; True, and at once, where nothing more is to be sent."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass
        return self._over.is_set()

    async def _worker(self, queue: Iterator[Wanted]) -> None:
        for one in queue:
            if self._over.is_set():
                return
            await self._one(one)

    async def _one(self, one: Wanted) -> None:
        """One answer, in as many tries as are allowed. Left without an end where nothing more may be sent."""
        failure = Failure("no try")
        for tried in range(1, self._desk.limits.tries + 1):
            worst = await self._reserved(one)
            if worst is None:
                return
            found = await self._endpoint.ask(one.asked)
            await self._settle(one, found, worst)
            if isinstance(found, Answer):
                self._state.row = 0
                self._desk.bar.advance()
                return
            failure = found
            if found.halts:
                await self._end(found.reason)
            if self._over.is_set():
                return
            if not found.again:
                break
            if await self._pause(found, tried):
                return
        await self._desk.journal.put(lines.failed(one.asked.id, failure.reason))
        self._desk.bar.advance()
        self._state.row += 1
        if self._state.row >= max(_MOST_IN_A_ROW, 2 * self._desk.limits.concurrency):
            await self._end(
                f"{self._state.row} requests in a row failed, the last with: {failure.reason}"
            )

    async def _pause(self, failure: Failure, tried: int) -> bool:
        """Waits before the next try; True where there will be none, in this run."""
        if tried == self._desk.limits.tries:
            return False
        wait = back_off(tried, self._desk.limits.first_wait, self._draw)
        if failure.seconds is not None:
            if failure.seconds > self._desk.limits.longest_pause:
                await self._end(
                    f"the server asks to be left alone for {failure.seconds:,.0f} seconds, more than longest_pause; "
                    f"it said: {failure.reason}"
                )
                return True
            self._pace.hold(failure.seconds)
        return await self._rest(wait)

    async def _reserved(self, one: Wanted) -> float | None:
        """The worst case of a request, once it is under the cap, has its turn and stands in the journal; or None."""
        read, desk = one.prompt.most_tokens, self._desk
        async with self._settled:
            while not desk.ledger.reserve(worst := desk.ledger.worst(read, desk.max_tokens)):
                if self._over.is_set():
                    return None
                if not desk.ledger.on_the_way:
                    self._state.reason = self._state.reason or "capped"
                    self._over.set()
                    self._settled.notify_all()
                    return None
                await self._settled.wait()
        likely = one.prompt.likely_tokens + desk.max_tokens
        if self._over.is_set() or not await self._pace.turn(likely, self._rest):
            await self._free(worst, 0.0)
            return None
        await desk.journal.put(lines.sent(one.asked.id, worst))
        return worst

    async def _settle(self, one: Wanted, found: Answer | Failure, worst: float) -> None:
        """Writes down what came of a request, and lets its worst case go."""
        if isinstance(found, Answer):
            self._desk.ledger.learn(found, one.prompt.most_tokens, self._desk.max_tokens)
            cost = self._desk.ledger.of(found, worst)
            line = lines.answered(one.asked.id, cost, found)
        else:
            cost = worst if found.paid else 0.0
            line = lines.lost(one.asked.id, cost, found.reason)
        await self._desk.journal.put(line)
        await self._free(worst, cost)

    async def _free(self, worst: float, cost: float) -> None:
        async with self._settled:
            self._desk.ledger.settle(worst, cost)
            self._settled.notify_all()
