"""Buffers that serve again, and narrow logits that are rounded near zero."""

import golden
import pytest
import tiny
import torch

from limbeck.models.layout import Head
from limbeck.objectives import _buffers
from limbeck.objectives._buffers import Room, product
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.types import HeadMean, Sampled, Signal

TOKENS, WIDTH, VOCAB = 96, 64, 2000
ROWS = tiny.rows(TOKENS, vocab=VOCAB)
LARGE = torch.empty(_buffers._WORTH_KEEPING // 4)


def test_what_was_lent_serves_again_once_nobody_holds_it():
    room = Room()
    first = room.lend(LARGE, torch.float32)
    assert first.shape == LARGE.shape
    where = first.data_ptr()
    view = first[5:]
    del first
    second = room.lend(LARGE, torch.float32)
    assert second.data_ptr() != where  # a view holds the first
    view.fill_(1)
    second.fill_(2)
    assert bool((view == 1).all())
    del view
    assert room.lend(LARGE, torch.float32).data_ptr() == where
    assert bool((second == 2).all())


def test_what_is_of_another_size_or_small_is_made_anew():
    room = Room()
    room.lend(LARGE, torch.float32)
    halved = room.lend(LARGE, torch.bfloat16)  # too small to keep
    assert halved.dtype == torch.bfloat16
    assert len(room._lent) == 1
    wide = room.lend(LARGE, torch.float64)
    assert wide.dtype == torch.float64
    assert [len(memory) for memory, _ in room._lent] == [8 * LARGE.numel()]


def test_gradients_of_two_calls_do_not_share_memory(monkeypatch):
    """One is kept while another is made, as in gradient accumulation."""
    monkeypatch.setattr(_buffers, "_WORTH_KEEPING", 1)
    room = Room()
    hidden, weight = tiny.randn(TOKENS, WIDTH), tiny.randn(VOCAB, WIDTH)

    def gradient(some):
        mine = weight.clone().requires_grad_()
        head = Head(mine, None, 1.0, None, VOCAB)
        rows = tiny.rows(TOKENS, vocab=VOCAB)
        chunked(hidden * some, head, None, rows, [cross_entropy], [1.0], room=room)[0].backward()
        return mine.grad

    first = gradient(1.0)
    before = first.clone()
    second = gradient(2.0)
    assert torch.equal(first, before)
    assert not torch.equal(second, before)
    where = first.data_ptr()
    del first
    third = gradient(1.0)
    assert third.data_ptr() == where
    assert torch.equal(third, before)


def high(*, seed):
    """Hidden states and head in float64 that bfloat16 holds exactly; the likely logits are about 30."""
    weight = tiny.randn(VOCAB, WIDTH, seed=seed) / 3
    hidden = tiny.randn(TOKENS, WIDTH, seed=seed + 1)
    weight[:, 0], hidden[:, 0] = 5.0, 4.0
    return hidden.bfloat16().double(), weight.bfloat16().double()


def sides(kind, dtype):
    hidden, weight = high(seed=3)
    if kind == "live":
        return Signal(hidden=hidden.to(dtype), head=Head(weight.to(dtype), None, 1.0, None, VOCAB))
    logprobs, ids = (hidden @ weight.T).log_softmax(-1).topk(16)
    if kind == "topk":
        return Signal(topk=golden.topk((hidden @ weight.T).log_softmax(-1), 16))
    counts = torch.full((TOKENS,), 16)
    return Signal(sampled=Sampled.of(ids.flatten(), logprobs.exp().flatten(), counts, None))


def pulled(way, kind, dtype):
    hidden, weight = (part.to(dtype).requires_grad_() for part in high(seed=1))
    head = Head(weight, None, 1.0, None, VOCAB)
    way(hidden, head, sides(kind, dtype), ROWS, [forward_kl], [1.0], chunk=40)[0].backward()
    return hidden.grad.double()


@pytest.mark.parametrize(("kind", "gain"), [("live", 1.2), ("topk", 2.5), ("sampled", 2.5)])
def test_large_logits_are_not_lost_in_rounding(kind, gain):
    """In bfloat16 a logit of 30 is a twentieth off: the gradient is nearer to float64 than that of whole logits."""
    true = pulled(chunked, kind, torch.float64)
    plain = pulled(whole, kind, torch.bfloat16) if kind == "live" else uncentred(kind)
    off = [
        float((found - true).norm() / true.norm())
        for found in (pulled(chunked, kind, torch.bfloat16), plain)
    ]
    assert gain * off[0] < off[1], off


def uncentred(kind):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_buffers, "_height", lambda hidden, _: hidden.new_zeros(hidden.shape[0], 1))
        return pulled(chunked, kind, torch.bfloat16)


@pytest.mark.parametrize(("biased", "limit"), [(False, 0.035), (True, 0.06)])
def test_a_centred_product_differs_by_one_number_in_each_row(biased, limit):
    hidden, weight = (part.bfloat16() for part in high(seed=1))
    bias = tiny.randn(VOCAB, seed=9).bfloat16() if biased else torch.zeros(VOCAB).bfloat16()
    head = Head(weight, bias if biased else None, 1.0, None, VOCAB - 3)
    exact = hidden.double() @ weight[:-3].double().T + bias[:-3].double()
    found = product(Room(), "one", hidden, head, centred=True).double()
    apart = found - exact
    assert found.shape == exact.shape
    assert float(found.amax()) < 16
    likely = exact > exact.amax(-1, keepdim=True) - 4
    assert float((apart - apart.median(-1, keepdim=True).values)[likely].abs().max()) < limit


@pytest.mark.parametrize("kind", ["cap", "mean"])
def test_a_cap_and_a_mean_row_see_logits_as_they_are(kind):
    """Neither is blind to a number that is added to all of them."""
    hidden, weight = high(seed=1)
    p = (tiny.randn(TOKENS, VOCAB, seed=4)).softmax(-1)
    cap = 30.0 if kind == "cap" else None
    side = sides("topk", torch.float64) if kind == "cap" else mean(p, weight)
    losses = []
    for dtype in (torch.float64, torch.bfloat16):
        head = Head(weight.to(dtype), None, 1.0, cap, VOCAB)
        total, _ = chunked(hidden.to(dtype), head, side, ROWS, [forward_kl], [1.0])
        losses.append(float(total))
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def mean(p, weight):
    return Signal(mean=HeadMean(p @ weight, -(p * p.log()).sum(-1)))
