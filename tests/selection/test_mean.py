"""A head's mean row is the product of probabilities and the head, and entropy stands beside."""

import pytest
import tiny
import torch

from limbeck.selection.mean import head_mean


@pytest.mark.parametrize("vocab", [29, 64, 200])
def test_the_mean_row_is_the_product_with_the_probabilities(vocab):
    logits, weight = tiny.randn(37, vocab) * 3, tiny.randn(vocab, 5, seed=1)
    found = head_mean(logits, weight)
    p = logits.softmax(-1)
    torch.testing.assert_close(found.rows, p @ weight, atol=1e-13, rtol=0)
    torch.testing.assert_close(found.entropy, -(p * p.log()).sum(-1), atol=1e-12, rtol=0)


def test_half_precision_is_near_the_product_in_float64():
    logits = (tiny.randn(40, 5000) * 3).bfloat16()
    weight = tiny.randn(5000, 8, seed=1).bfloat16()
    found = head_mean(logits, weight)
    wanted = logits.double().softmax(-1) @ weight.double()
    # Each p is rounded to 8 bits: the sum of such errors over all ids.
    torch.testing.assert_close(found.rows.double(), wanted, atol=4e-3, rtol=0)


def test_ids_beyond_the_students_head_are_left_out():
    logits, weight = tiny.randn(3, 64), tiny.randn(50, 5, seed=1)
    logits[:, 50:] = -torch.inf
    found = head_mean(logits, weight)
    wanted = logits[:, :50].softmax(-1) @ weight
    torch.testing.assert_close(found.rows, wanted, atol=1e-13, rtol=0)
