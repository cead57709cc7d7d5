"""The order is a function; each sample comes once an epoch, however the work is divided."""

import itertools

import numpy as np
import pytest
import torch

from limbeck.data.fit import fitted
from limbeck.data.loader import PackedSource, order, positions_for
from limbeck.data.pack import Stream
from limbeck.errors import DataError, RecipeError


def stream_of(tokens):
    ids = np.arange(1, tokens, dtype=np.uint16)
    return Stream(ids, np.ones_like(ids), np.array([0, tokens - 1]), 0)


def source(rows=10, length=3, **options):
    return PackedSource(stream_of(rows * (length + 1)), length, **options)


def test_an_order_is_a_permutation_and_the_same_again():
    first = order(1000, 7, 2)
    assert sorted(first.tolist()) == list(range(1000))
    np.testing.assert_array_equal(first, order(1000, 7, 2))


def test_the_order_is_pinned():
    # A change here changes what every resumed run would see next.
    assert order(10, 0, 0).tolist() == [6, 0, 4, 9, 2, 1, 5, 3, 8, 7]


def test_seeds_and_epochs_give_other_orders():
    found = {tuple(order(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(found) == 25


def test_an_order_has_no_drift():
    # Mean place of row 0 over 400 epochs of 101 rows: 50, standard error 1.46; four of those.
    places = [int(np.flatnonzero(order(101, 3, epoch) == 0)[0]) for epoch in range(400)]
    assert abs(np.mean(places) - 50) < 6


@pytest.mark.parametrize("world", [1, 2, 3, 6])
@pytest.mark.parametrize("epochs", [1, 3])
def test_each_sample_comes_once_an_epoch_for_any_number_of_ranks(world, epochs):
    data = source(rows=12)
    seen = []
    for step in range(epochs * 2):
        for rank in range(world):
            batch = data.batch(positions_for(step, 6, rank, world))
            seen += batch.input_ids[:, 0].tolist()
    for epoch in range(epochs):
        assert len(set(seen[epoch * 12 : epoch * 12 + 12])) == 12


def test_ranks_together_see_what_one_rank_sees():
    alone = [list(positions_for(step, 8, 0, 1)) for step in range(3)]
    for world in (2, 4, 8):
        parts = [
            list(itertools.chain(*(positions_for(step, 8, rank, world) for rank in range(world))))
            for step in range(3)
        ]
        assert parts == alone


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(RecipeError, match="7 rows a step do not divide evenly over 2 ranks"):
        positions_for(0, 7, 0, 2)


def test_a_position_means_the_same_in_a_new_source_and_in_any_order():
    first, second = source(seed=3), source(seed=3)
    forward = {p: first.batch([p]).addresses for p in range(35)}
    backward = {p: second.batch([p]).addresses for p in reversed(range(35))}
    assert forward == backward


def test_a_batch_may_stand_across_the_end_of_an_epoch():
    data = source(rows=4)
    together = data.batch(range(2, 7))
    alone = torch.cat([data.batch([p]).input_ids for p in range(2, 7)])
    torch.testing.assert_close(together.input_ids, alone, atol=0, rtol=0)


def test_a_batch_says_how_often_the_text_had_been_read_before_each_row():
    assert source(rows=4).batch([0, 3, 4, 7, 8]).epochs == (0, 0, 1, 1, 2)
    data = PackedSource(stream_of(9), 3, fitted=fitted(stream_of(9), 3))
    assert data.rows == 3
    assert data.batch(range(2, 7)).epochs == (0, 1, 1, 1, 2)


def test_rows_of_whole_documents_come_once_an_epoch():
    data = PackedSource(stream_of(9), 3, fitted=fitted(stream_of(9), 3))
    seen = data.batch(range(3))
    assert sorted(seen.input_ids[seen.weights > 0].tolist()) == list(range(1, 9))


def test_an_unshuffled_source_goes_through_the_rows_in_order():
    data = source(rows=4, shuffled=False)
    assert [data.row_at(p) for p in range(6)] == [0, 1, 2, 3, 0, 1]


def test_only_two_orders_are_held():
    data = source()
    for position in (0, 15, 25, 35, 5):
        data.row_at(position)
    assert len(data._orders) <= 2


def test_a_stream_shorter_than_a_row_is_refused():
    with pytest.raises(DataError, match=r"8 tokens .* fewer than one row of 8 \+ 1"):
        PackedSource(stream_of(8), 8)
    assert PackedSource(stream_of(9), 8).rows == 1


def test_overlap_gives_more_rows():
    stream = stream_of(41)
    assert PackedSource(stream, 4).rows == 8
    assert PackedSource(stream, 4, overlap_one=True).rows == 10


def test_a_batch_of_no_positions_is_empty():
    assert source().batch([]).input_ids.shape == (0, 3)
