"""What all rows of a capture share is seen in those samples of which something is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_foreign

from limbeck.converting.samples import Sample
from limbeck.converting.shape import Shape, shape_of
from limbeck.errors import DataError

HERE = Path("old")


def samples(count=6, *, own=False):
    """Samples whose places speak of the token after them, or of their own."""
    for ids, kept, logs in tiny_foreign.samples(count):
        known = np.arange(len(ids)) < len(ids) - 1
        if own:
            kept, logs, known = np.roll(kept, 1, 0), np.roll(logs, 1, 0), np.roll(known, 1)
        yield Sample(ids, kept, logs, known, known.astype(np.float32), "x, row 1")


def unknown(sample):
    return replace(sample, known=np.zeros_like(sample.known))


@pytest.mark.parametrize("own", [False, True])
def test_the_shift_is_that_of_samples_of_which_something_is_known(own):
    made = list(samples(own=own))
    longest = max(len(sample.ids) for sample in made) - 1
    found = shape_of([unknown(made[0])] * 70 + made, HERE)
    assert found == Shape(longest, 8, int(own), passed_over=70)


@pytest.mark.parametrize("at", [0, 3, 6])
def test_a_sample_of_no_place_says_nothing_of_k(at):
    made = list(samples())
    nothing = np.zeros((1, 0))
    one = Sample(np.array([5]), nothing.astype(int), nothing, np.array([True]), np.ones(1), "x")
    made.insert(at, one)
    found = shape_of(made, HERE)
    assert (found.k, found.passed_over) == (8, 1)


def test_the_fewest_ids_count():
    one, *more = samples()
    narrow = replace(one, kept=one.kept[:, :5], logprobs=one.logprobs[:, :5])
    assert shape_of([*more, narrow], HERE).k == 5


def test_samples_of_which_nothing_is_known_are_refused():
    with pytest.raises(DataError, match="two tokens or more of which anything is known; 6 samples"):
        shape_of(map(unknown, samples()), HERE)


def test_the_last_place_alone_does_not_tell_of_what_it_speaks():
    last = [replace(one, known=np.arange(len(one.ids)) == len(one.ids) - 1) for one in samples()]
    with pytest.raises(DataError, match="the last place alone is known"):
        shape_of(last, HERE)
