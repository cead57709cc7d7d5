"""What is not fit to be written is told with what was found and what was wanted."""

import numpy as np
import pytest
import torch

from limbeck.cache.kinds import check
from limbeck.errors import CacheMismatch, NonFinite


def test_bfloat16_becomes_numbers_that_numpy_has():
    found = check.plain(torch.tensor([1.5, -2.0], dtype=torch.bfloat16, requires_grad=True))
    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -2.0]


def test_counts_beyond_a_byte_are_refused():
    check.counts("heads", np.array([255, 0]), 1_000, 255)
    with pytest.raises(CacheMismatch, match="heads from 0 to 256; wanted 0 to 255"):
        check.counts("heads", np.array([256, 0]), 1_000, 256)


def test_the_same_id_in_two_tokens_is_no_mistake():
    check.once("ids", np.array([3, 3]), np.array([0, 1]), 29)
    with pytest.raises(CacheMismatch, match="twice"):
        check.once("ids", np.array([3, 4, 3]), np.array([1, 1, 1]), 29)


def test_nothing_is_fit_to_be_written():
    nothing = np.zeros(0, np.int64)
    check.ids("ids", nothing, 29)
    check.once("ids", nothing, nothing, 29)
    check.counts("counts", nothing, 5, 0)
    check.logs("logprobs", nothing.astype(float))


def test_a_rounding_above_a_probability_of_one_is_no_mistake():
    check.logs("logprobs", np.array([1e-6, -np.inf]))
    with pytest.raises(NonFinite):
        check.logs("logprobs", np.array([0.01]))
