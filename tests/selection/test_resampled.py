"""Drawing with replacement is right on average for every id, at every exponent, as long as nobody normalises it."""

import plainly
import pytest
import tiny
import torch

from limbeck.errors import LimbeckError
from limbeck.selection.resampled import resampled

VOCAB, DRAWS = 40, 20_000


def uniforms(samples, tokens, *, seed=0):
    return torch.rand(samples, tokens, generator=tiny.generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("exponent", [1.0, 0.8, 1.3])
@pytest.mark.parametrize("vocab", [29, 64, 500])
def test_ids_and_weights_are_those_of_walking_along_the_distribution(vocab, exponent):
    logits, points = tiny.randn(40, vocab) * 3, uniforms(20, 40)
    found = resampled(logits, points, exponent=exponent)
    for token in range(40):
        wanted = plainly.resampled(logits[token], points[:, token].tolist(), exponent)
        part = slice(int(found.starts[token]), int(found.starts[token + 1]))
        assert found.ids[part].tolist() == list(wanted)
        expected = torch.tensor(list(wanted.values()), dtype=torch.float64)
        torch.testing.assert_close(found.weights[part], expected, atol=1e-10, rtol=1e-10)
    entropy = torch.tensor([plainly.entropy(row) for row in logits])
    torch.testing.assert_close(found.entropy, entropy, atol=1e-11, rtol=0)


def test_ids_without_probability_are_never_drawn():
    logits = tiny.randn(50, 100, dtype=torch.float32)
    logits[:, 30:70] = -torch.inf
    found = resampled(logits, uniforms(50, 50))
    assert not bool(((found.ids >= 30) & (found.ids < 70)).any())


def targets(logits, exponent):
    """DRAWS targets (DRAWS, vocab) of ten samples each."""
    rows = logits.expand(DRAWS, -1).contiguous()
    found = resampled(rows, uniforms(10, DRAWS), exponent=exponent)
    whole = torch.zeros(DRAWS, VOCAB, dtype=torch.float64)
    whole[found.tokens, found.ids] = found.weights.double()
    return whole


def apart(sampled, wanted):
    """The largest difference of a mean over draws from what is wanted, in standard errors."""
    error = sampled.std(0) / DRAWS**0.5
    return float(((sampled.mean(0) - wanted).abs() / error).max())


@pytest.mark.parametrize("exponent", [1.0, 0.8])
def test_the_mean_target_is_the_distribution_for_every_id(exponent):
    logits = tiny.randn(VOCAB) * 2
    assert apart(targets(logits, exponent), logits.softmax(-1)) < 4


def test_weights_of_plain_samples_sum_to_one():
    total = targets(tiny.randn(VOCAB) * 2, 1.0).sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_normalising_importance_weights_biases_them():
    logits = tiny.randn(VOCAB) * 2
    found = targets(logits, 0.8)
    assert apart(found / found.sum(-1, keepdim=True), logits.softmax(-1)) > 8


@pytest.mark.parametrize("exponent", [1.0, 0.8])
def test_the_mean_gradient_is_the_dense_one(exponent):
    teacher, student = tiny.randn(2, VOCAB) * 2
    found = targets(teacher, exponent)
    q = student.softmax(-1)
    gradients = found.sum(-1, keepdim=True) * q - found
    assert apart(gradients, q - teacher.softmax(-1)) < 4


def test_an_exponent_that_is_none_is_refused():
    with pytest.raises(LimbeckError, match="exponent 0"):
        resampled(tiny.randn(1, 64), uniforms(2, 1), exponent=0)
