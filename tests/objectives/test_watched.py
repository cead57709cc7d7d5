"""Terms of weight zero are reckoned like the others and pull nothing."""

import golden
import pytest
import tiny
import torch

from limbeck.models.layout import Head
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import Signal

TOKENS, WIDTH, VOCAB = 9, 6, 13


def teacher(kind):
    logits = tiny.randn(TOKENS, VOCAB, seed=3)
    return Signal(logits=logits) if kind == "dense" else Signal(topk=golden.topk(logits, 4))


@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_where_all_terms_are_only_watched_there_are_values_and_no_slope(kind):
    weight = tiny.randn(VOCAB, WIDTH, seed=1).requires_grad_()
    states = tiny.randn(TOKENS, WIDTH, seed=2).requires_grad_()
    given = (Head(weight, None, 1.0, None, VOCAB), teacher(kind), tiny.rows(TOKENS, vocab=VOCAB))
    terms, none = (forward_kl, cross_entropy), (0.0, 0.0)
    total, sums = chunked(states, *given, terms, none, chunk=4)
    torch.testing.assert_close(
        sums, whole(states, *given, terms, none)[1].detach(), atol=1e-10, rtol=0
    )
    total.backward()
    assert torch.equal(states.grad, torch.zeros_like(states))
    assert torch.equal(weight.grad, torch.zeros_like(weight))
