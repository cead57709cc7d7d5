import golden
import pytest
import tiny
import torch

from limbeck.objectives.total_variation import total_variation


def test_value_is_half_the_sum_of_gaps():
    found = golden.value(total_variation, golden.P.log(), golden.Q.log())
    assert found == pytest.approx(0.5 * (0.3 + 0.05 + 0.15 + 0.2), abs=1e-12)


def test_bucket_adds_the_gap_of_the_tails():
    found = golden.value(total_variation, golden.topk(golden.P.log(), 2), golden.Q.log())
    assert found == pytest.approx(0.5 * (0.3 + 0.05 + 0.35), abs=1e-12)


def test_it_is_at_most_one():
    teacher, student = 50 * tiny.randn(2, 20, 11)
    found = total_variation(student, teacher, tiny.rows(20))
    assert found.max() <= 1 + 1e-12
    assert found.max() > 0.99
    assert torch.isfinite(found).all()
