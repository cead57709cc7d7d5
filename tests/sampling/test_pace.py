"""How fast requests follow one another, by a clock that the test moves."""

import asyncio
import random
from datetime import UTC, datetime

import pytest

from limbeck.sampling.pace import Pace, back_off, retry_after


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def rest(self, seconds):
        self.now += seconds
        return False


def moments(requests, tokens, sizes):
    clock, found = Clock(), []
    pace = Pace(requests, tokens, clock=clock)

    async def all_of_them():
        for size in sizes:
            assert await pace.turn(size, clock.rest)
            found.append(clock.now)

    asyncio.run(all_of_them())
    return found


def test_no_minute_has_more_requests_or_tokens_than_allowed():
    assert moments(3, None, [1] * 7) == [0, 0, 0, 60, 60, 60, 120]
    assert moments(None, 100, [60, 30, 30, 90]) == [0, 0, 60, 120]
    assert moments(None, 100, [500, 1]) == [0, 60]


def test_a_pause_holds_all():
    clock = Clock()
    pace = Pace(None, None, clock=clock)
    pace.hold(7)
    assert pace.wait(1) == 7
    clock.now = 7.0
    assert pace.wait(1) == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5", 5.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("Fri, 01 Jan 2027 00:01:00 GMT", 60.0),
        ("Thu, 31 Dec 2026 00:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_a_pause_that_is_asked_for_is_read_as_number_or_date(given, seconds):
    assert retry_after(given, datetime(2027, 1, 1, tzinfo=UTC)) == seconds


def test_waits_double_and_are_the_same_for_the_same_seed():
    waits = [back_off(n, 1.0, random.Random(0)) for n in range(1, 12)]
    assert waits == [back_off(n, 1.0, random.Random(0)) for n in range(1, 12)]
    assert all(0.5 * 2 ** (n - 1) <= back_off(n, 1.0, random.Random(n)) for n in range(1, 6))
    assert max(waits) <= 90
