"""In bfloat16 at tokens of which the student is nearly sure: there a slope is the small difference of numbers near one."""

from functools import partial

import golden
import pytest
import tiny
import torch

from limbeck.models.layout import Head
from limbeck.objectives import _rows
from limbeck.objectives._chunks import chunked
from limbeck.objectives._rows import Finish, Pair
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.types import HeadMean, Sampled, Signal

TOKENS, WIDTH, VOCAB = 256, 64, 500
ROWS = tiny.rows(TOKENS, vocab=VOCAB)


def sure():
    """Hidden states and head in float64 that bfloat16 holds exactly; about 0.999 on each label."""
    weight = (tiny.randn(VOCAB, WIDTH, seed=1) / 8).bfloat16().double()
    at = weight[ROWS.labels]
    hidden = tiny.randn(TOKENS, WIDTH) + 16 * at / at.norm(dim=-1, keepdim=True) ** 2
    return hidden.bfloat16().double(), weight


def sampled(p):
    ids = [(row >= 0.02).nonzero()[:, 0] for row in p]
    weights = torch.cat([row[some] for row, some in zip(p, ids, strict=True)])
    counts = torch.tensor([len(some) for some in ids])
    return Signal(sampled=Sampled.of(torch.cat(ids), weights, counts, None))


def signal(kind, p, weight):
    if kind == "labels":
        return None
    if kind == "sampled":
        return sampled(p)
    if kind == "mean":
        return Signal(mean=HeadMean(p @ weight, -(p * p.log()).sum(-1)))
    return Signal(topk=golden.topk(p.log(), 8)) if kind == "topk" else Signal(logits=p.log())


def pulled(dtype, side, terms, *, frozen=False):
    hidden, weight = (part.to(dtype) for part in sure())
    hidden.requires_grad_()
    weight.requires_grad_(not frozen)
    top = Head(weight, None, 1.0, None, VOCAB)
    coefficients = [1.0 / len(terms)] * len(terms)
    chunked(hidden, top, side, ROWS, terms, coefficients, chunk=100)[0].backward()
    return hidden.grad.double()


@pytest.mark.parametrize(
    ("kind", "terms", "limit"),
    [
        ("labels", [cross_entropy], 0.05),
        ("sampled", [forward_kl], 0.05),
        ("sampled", [forward_kl, cross_entropy], 0.05),
        ("topk", [forward_kl, cross_entropy], 0.05),
        ("dense", [forward_kl, cross_entropy], 0.05),
        # As far as bfloat16 logits let it be: beside dense logits of float64 the rest is the same.
        ("mean", [forward_kl], 0.6),
        ("mean", [forward_kl, cross_entropy], 0.1),
    ],
)
def test_the_slope_is_not_lost_in_rounding(kind, terms, limit):
    hidden, weight = sure()
    logits = hidden @ weight.T
    assert logits.softmax(-1).gather(1, ROWS.labels[:, None]).median() > 0.998
    noise = 0.05 if kind == "mean" else 0.5
    side = signal(kind, (logits + noise * tiny.randn(TOKENS, VOCAB, seed=4)).softmax(-1), weight)
    frozen = kind == "mean"
    true, found = (
        pulled(dtype, side, terms, frozen=frozen) for dtype in (torch.float64, torch.bfloat16)
    )
    assert float((found - true).norm() / true.norm()) < limit


def test_an_option_on_a_ramp_is_not_compiled_at_every_step():
    """The sixth value of an option gives a plain function; before, each was compiled for seconds."""
    between = jensen_shannon.__globals__["between"]
    made = [
        _rows.comparison(
            (Pair(between, (("beta", 0.3 + n / 100),), 0),), 1, None, Finish(), Finish()
        )
        for n in range(6)
    ]
    assert hasattr(made[0], "__wrapped__")
    assert not hasattr(made[-1], "__wrapped__")


@pytest.mark.parametrize("coefficients", [(1.0, 0.0), (0.5, 0.5), (0.0, 1.0)])
def test_two_terms_on_sampled_ids_both_pull(coefficients):
    hidden, weight = sure()
    side = sampled((hidden @ weight.T).softmax(-1))
    terms = [forward_kl, partial(forward_kl, tail="renorm_both")]
    found = []
    for some, factors in ((terms, coefficients), (terms[:1], (1.0,))):
        leaf = hidden.clone().requires_grad_()
        top = Head(weight, None, 1.0, None, VOCAB)
        chunked(leaf, top, side, ROWS, some, factors)[0].backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found)
