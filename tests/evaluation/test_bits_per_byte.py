"""Bits per byte count text only, and equal what can be reckoned by hand."""

import math

import pytest
import tiny
import torch

from limbeck.evaluation.bits_per_byte import bits_per_byte, finish


def test_a_coin_of_two_tokens_is_one_bit_a_token():
    logits = torch.zeros(4, 2)
    rows = tiny.rows(4, vocab=2)
    found = finish(
        {
            k: float(v)
            for k, v in bits_per_byte(logits, None, rows, torch.tensor([1, 1, 1, 1])).items()
        }
    )
    assert found["bits_per_byte"] == pytest.approx(1.0)
    assert found["nats_per_token"] == pytest.approx(math.log(2))
    assert found["tokens"] == found["bytes"] == 4


def test_it_is_the_sum_of_minus_log2_over_the_bytes():
    logits = tiny.randn(7, tiny.VOCAB)
    rows = tiny.rows(7)
    sizes = torch.tensor([1, 4, 2, 0, 3, 1, 5])
    rows.weights[5] = 0.0
    nats, size = 0.0, 0
    for token in (0, 1, 2, 4, 6):
        p = logits[token].double().softmax(-1)[rows.labels[token]]
        nats -= math.log(float(p))
        size += int(sizes[token])
    found = finish({k: float(v) for k, v in bits_per_byte(logits, None, rows, sizes).items()})
    assert found["bits_per_byte"] == pytest.approx(nats / size / math.log(2), rel=1e-6)
    assert found["tokens"] == 5


def test_a_model_that_is_certain_of_the_text_has_no_bits_and_is_always_right():
    rows = tiny.rows(6)
    logits = torch.full((6, tiny.VOCAB), -1e4).scatter(1, rows.labels[:, None], 0.0)
    found = finish(
        {
            k: float(v)
            for k, v in bits_per_byte(logits, None, rows, torch.ones(6, dtype=torch.int64)).items()
        }
    )
    assert found["bits_per_byte"] == 0.0
    assert found["accuracy"] == 1.0


def test_text_of_separators_only_divides_by_nothing():
    zeros = torch.zeros(3, dtype=torch.int64)
    sums = bits_per_byte(torch.zeros(3, 5), None, tiny.rows(3, vocab=5), zeros)
    assert finish({k: float(v) for k, v in sums.items()})["bits_per_byte"] == 0.0
