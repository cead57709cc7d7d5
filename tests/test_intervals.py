"""Intervals hold what they say, agree with scipy's, and pair what stands on the same rows."""

import numpy as np
import pytest

from limbeck.evaluation import bits_per_byte
from limbeck.intervals import Resampled, figures

REPEATS = 500


def rows(rng, count):
    """Nats and bytes of rows: long tails, and long rows that cost more a byte, as text has them."""
    size = rng.lognormal(6.0, 0.4, count)
    hard = rng.gamma(6.0, 1 / 6.0, count) * (1 + 0.2 * (size / 400 - 1))
    return size * hard, size


def truth():
    rng = np.random.default_rng(1)
    nats, size = rows(rng, 4_000_000)
    return nats.sum() / size.sum()


def test_95_of_100_intervals_hold_the_true_ratio():
    wanted, draws, rng = truth(), Resampled(64, resamples=1000), np.random.default_rng(7)
    held = 0
    for _ in range(REPEATS):
        nats, size = rows(rng, 64)
        found = draws.interval(draws.sums(nats) / draws.sums(size))
        held += found.low <= wanted <= found.high
    assert 0.92 <= held / REPEATS <= 0.98, held / REPEATS


def test_95_of_100_intervals_hold_a_paired_difference_and_a_gap():
    draws, rng = Resampled(64, resamples=1000), np.random.default_rng(3)
    held, narrow, gaps = 0, [], 0
    for _ in range(REPEATS):
        nats, size = rows(rng, 64)
        student = nats * 0.97 + size * rng.normal(0.02, 0.05, 64)
        mine, theirs, best = (draws.sums(x) / draws.sums(size) for x in (student, nats, nats * 0.5))
        found = draws.interval(mine - theirs)
        held += found.low <= 0.02 - 0.03 * TRUE <= found.high
        narrow.append((found.high - found.low) / _apart(draws, student, nats, size))
        gap = draws.interval((theirs - mine) / (theirs - best))
        gaps += gap.low <= (0.03 * TRUE - 0.02) / (0.5 * TRUE) <= gap.high
    assert 0.92 <= held / REPEATS <= 0.98, held / REPEATS
    assert 0.92 <= gaps / REPEATS <= 0.98, gaps / REPEATS
    assert np.median(narrow) < 0.5, "pairing was worth nothing"


TRUE = truth()


def _apart(draws, one, other, size):
    """The width of an interval of the difference whose draws are not shared."""
    mine = draws.interval(draws.sums(one) / draws.sums(size))
    theirs = draws.interval(draws.sums(other) / draws.sums(size))
    return np.hypot(mine.high - mine.low, theirs.high - theirs.low)


def test_it_is_what_scipy_computes():
    stats = pytest.importorskip("scipy.stats")
    nats, size = rows(np.random.default_rng(5), 40)
    draws = Resampled(40, resamples=9000)
    found = draws.interval(draws.sums(nats) / draws.sums(size))

    def ratio(one, other, axis):
        return one.sum(axis) / other.sum(axis)

    wanted = stats.bootstrap(
        (nats, size), ratio, paired=True, vectorized=True, n_resamples=9000, method="BCa", rng=0
    ).confidence_interval
    width = wanted.high - wanted.low
    assert found.low == pytest.approx(wanted.low, abs=0.04 * width)
    assert found.high == pytest.approx(wanted.high, abs=0.04 * width)


def test_figures_of_all_rows_are_those_of_the_measure():
    rng = np.random.default_rng(0)
    given = {name: rng.uniform(1, 9, 30) for name in ("nats", "bytes", "tokens", "right")}
    found = figures(Resampled(30), given, bits_per_byte.finish)
    wanted = bits_per_byte.finish({name: float(v.sum()) for name, v in given.items()})
    assert {name: values[0] for name, values in found.items()} == pytest.approx(wanted)


def test_many_rows_are_blocks_and_equal_models_differ_by_nothing():
    rng = np.random.default_rng(2)
    nats, size = rows(rng, 12_345)
    draws = Resampled(12_345)
    ratio = draws.sums(nats) / draws.sums(size)
    found = draws.interval(ratio)
    assert found.value == pytest.approx(nats.sum() / size.sum())
    assert found.low < found.value < found.high < 1.1 * found.value
    none = draws.interval(ratio - ratio)
    assert (none.low, none.high, none.certain) == (0.0, 0.0, False)


def test_few_rows_have_no_interval():
    with pytest.raises(ValueError, match="at least 8"):
        Resampled(7)
