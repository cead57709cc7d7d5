"""The likeliest ids by groups are those of sorting everything, and the rest is what is left."""

import pytest
import tiny
import torch

from limbeck.errors import LimbeckError
from limbeck.selection.likeliest import likeliest


@pytest.mark.parametrize(
    ("vocab", "k"), [(29, 5), (29, 29), (64, 64), (200, 3), (1000, 64), (1000, 1), (130, 129)]
)
def test_they_are_those_of_looking_at_every_id(vocab, k):
    logits = tiny.randn(70, vocab, seed=k) * 3
    top = likeliest(logits, k)
    whole = logits.log_softmax(-1)
    expected, ids = whole.topk(k)
    assert torch.equal(top.ids, ids)
    torch.testing.assert_close(top.logprobs, expected, atol=1e-12, rtol=0)
    rest = whole.scatter(-1, ids, -torch.inf).logsumexp(-1)
    torch.testing.assert_close(top.rest, rest, atol=1e-10, rtol=0)


@pytest.mark.parametrize("vocab", [640, 5056])
def test_ties_lose_no_probability(vocab):
    logits = torch.randint(-4, 4, (50, vocab), generator=tiny.generator()).to(torch.bfloat16)
    top = likeliest(logits, 70)
    wanted = logits.double().topk(70).values
    taken = logits.double().gather(-1, top.ids)
    assert torch.equal(taken, wanted)
    ordered = top.ids.sort(-1).values
    assert bool((ordered[:, 1:] != ordered[:, :-1]).all())


def test_ids_outside_a_padded_vocabulary_come_last():
    logits = tiny.randn(9, 128, dtype=torch.float32)
    logits[:, 20:] = -torch.inf
    assert int(likeliest(logits, 20).ids.max()) < 20
    assert torch.equal(likeliest(logits, 20).rest, torch.full((9,), -torch.inf))


@pytest.mark.parametrize("ids", [20, 3])
def test_more_than_have_a_probability_are_refused(ids):
    logits = tiny.randn(9, 128, dtype=torch.float32)
    logits[4, ids:] = -torch.inf
    assert likeliest(logits, ids).ids.shape == (9, ids)
    with pytest.raises(LimbeckError, match=rf"token 4 of 9 has {ids} ids with .*wanted {ids + 1}"):
        likeliest(logits, ids + 1)


def test_all_probability_is_in_the_kept_ids_and_the_rest():
    top = likeliest(tiny.randn(7, 29), 5)
    total = top.logprobs.exp().sum(-1) + top.rest.exp()
    torch.testing.assert_close(total, torch.ones(7, dtype=torch.float64), atol=1e-12, rtol=0)


def test_a_rest_too_small_for_one_minus_the_kept_is_not_lost():
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    top = likeliest(logits, 1)
    assert 1 - top.logprobs.exp().sum() == 0
    expected = torch.tensor([2.0]).log() - 60
    torch.testing.assert_close(top.rest, expected, atol=1e-5, rtol=0)


def test_keeping_every_token_leaves_no_rest():
    top = likeliest(tiny.randn(7, 29), 29)
    assert torch.equal(top.rest, torch.full((7,), -torch.inf, dtype=torch.float64))


def test_half_precision_logits_are_normalised_in_float32():
    logits = tiny.randn(7, 29).to(torch.bfloat16)
    assert torch.equal(likeliest(logits, 3).logprobs, likeliest(logits.float(), 3).logprobs)
