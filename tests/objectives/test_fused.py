"""The operator without a graph against the plain objectives under autograd, both in float64."""

from functools import partial

import golden
import pytest
import tiny
import torch

from limbeck.errors import RecipeError
from limbeck.models.layout import Head
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives._fusion import Fusion
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.jensen_shannon import jensen_shannon
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.objectives.skew_kl import skew_kl
from limbeck.objectives.total_variation import total_variation
from limbeck.types import HeadMean, Rows, Sampled, Signal

TOKENS, WIDTH, ROWS, K = 21, 6, 13, 4
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scaled": {"scale": 0.3},
    "capped": {"scale": 0.7, "softcap": 1.5},
    "padded": {"vocab": ROWS - 3},
}
TERMS = {
    "forward": [partial(forward_kl, temperature=1.7)],
    "reverse": [partial(reverse_kl, temperature=0.6, scale_t2=False)],
    "skewed": [partial(skew_kl, alpha=0.2)],
    "jensen": [partial(jensen_shannon, beta=0.3, normalize=True)],
    "forward by its limit": [partial(jensen_shannon, beta=0.0, temperature=2.0)],
    "variation": [total_variation],
    "with labels": [cross_entropy, partial(forward_kl, temperature=1.7)],
    "with labels at one temperature": [forward_kl, cross_entropy],
    "three": [partial(reverse_kl, temperature=3.0), cross_entropy, forward_kl],
    "labels": [cross_entropy],
}


def head(kind, *, seed=1, width=WIDTH):
    made = HEADS[kind]
    weight = tiny.randn(ROWS, width, seed=seed).requires_grad_()
    bias = tiny.randn(ROWS, seed=seed + 1).requires_grad_() if made.get("bias") else None
    return Head(weight, bias, made.get("scale", 1.0), made.get("softcap"), made.get("vocab", ROWS))


def rows(vocab):
    plain = tiny.rows(TOKENS, vocab=vocab)
    weights = tiny.randn(TOKENS, seed=9).abs()
    weights[::5] = 0.0
    return Rows(plain.labels, weights, plain.position_ids, plain.document_ids)


def hidden_side(vocab, kind="plain"):
    """A teacher that gives hidden states and a wider head of its own kind."""
    given = HEADS[kind]
    wide = tiny.randn(ROWS, WIDTH + 2, seed=6)
    own = Head(wide, None, given.get("scale", 1.0), given.get("softcap"), vocab)
    return Signal(hidden=2 * tiny.randn(TOKENS, WIDTH + 2, seed=5), head=own)


def logits_side(vocab):
    return Signal(logits=hidden_side(vocab).distribution(slice(0, TOKENS)))


def topk_side(vocab, k=K):
    return Signal(topk=golden.topk(logits_side(vocab).logits, k))


def sampled_side(vocab, *, entropy=True):
    """Between none and vocab ids a token, some the label; the weights need not sum to 1."""
    chosen = tiny.randn(TOKENS, vocab, seed=3) > 0.4
    ids = chosen.nonzero()[:, 1]
    weights = tiny.randn(len(ids), seed=4).abs()
    known = tiny.randn(TOKENS, seed=8).abs() if entropy else None
    return Signal(sampled=Sampled.of(ids, weights, chosen.sum(-1), known))


def both(way, top, side, terms, **options):
    """Total, sums, and the gradients of hidden states and head; each coefficient another."""
    states = tiny.randn(TOKENS, WIDTH, seed=2).requires_grad_()
    coefficients = [0.3, 1.1, 0.7][: len(terms)]
    total, sums = way(states, top, side, rows(top.vocab), terms, coefficients, **options)
    (3 * total).backward()
    leaves = [leaf for leaf in (states, top.weight, top.bias) if leaf is not None]
    found = [total.detach(), sums, *(leaf.grad.clone() for leaf in leaves)]
    for leaf in leaves:
        leaf.grad = None
    return found


def agree(top, side, terms, *, tolerance=1e-10):
    assert Fusion.of(terms, [1.0] * len(terms), top.weight) is not None
    wanted = both(whole, top, side, terms)
    for chunk in (1, 4, TOKENS):
        for one, other in zip(both(chunked, top, side, terms, chunk=chunk), wanted, strict=True):
            torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", TERMS)
def test_a_dense_teacher_gives_what_autograd_gives(name, kind):
    top = head(kind)
    agree(top, hidden_side(top.vocab), TERMS[name])


def test_a_dense_teacher_has_its_own_finish():
    top = head("plain")
    agree(top, hidden_side(top.vocab, "capped"), TERMS["three"])
    agree(top, logits_side(top.vocab), TERMS["three"])


@pytest.mark.parametrize("tail", golden.TAILS)
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("name", TERMS)
def test_kept_ids_give_what_autograd_gives(name, kind, tail):
    top = head(kind)
    terms = [term if term is cross_entropy else partial(term, tail=tail) for term in TERMS[name]]
    agree(top, topk_side(top.vocab), terms)


@pytest.mark.parametrize("name", TERMS)
def test_keeping_every_id_gives_what_a_dense_teacher_gives(name):
    top = head("plain")
    dense = both(chunked, top, logits_side(ROWS), TERMS[name], chunk=5)
    kept = both(chunked, top, topk_side(ROWS, ROWS), TERMS[name], chunk=5)
    for one, other in zip(kept, dense, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("kind", HEADS)
def test_sampled_ids_give_what_autograd_gives(kind, entropy):
    top = head(kind)
    side = sampled_side(top.vocab, entropy=entropy)
    agree(top, side, [forward_kl])
    agree(top, side, [forward_kl, cross_entropy])


def test_weights_that_are_the_whole_distribution_give_forward_kl():
    top, dense = head("plain"), logits_side(ROWS)
    p = dense.logits.softmax(-1)
    ids = torch.arange(ROWS).repeat(TOKENS)
    entropy = -(p * p.log()).sum(-1)
    side = Signal(sampled=Sampled.of(ids, p.flatten(), torch.full((TOKENS,), ROWS), entropy))
    wanted = both(whole, top, dense, [forward_kl])
    for one, other in zip(both(chunked, top, side, [forward_kl], chunk=4), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", ["plain", "scaled", "padded"])
@pytest.mark.parametrize("terms", [[forward_kl], [forward_kl, cross_entropy]])
def test_mean_rows_of_a_frozen_head_give_exact_forward_kl(kind, terms):
    top = head(kind)
    top.weight.requires_grad_(False)
    dense = logits_side(top.vocab)
    log_p = dense.logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    side = Signal(mean=HeadMean(log_p.exp() @ top.weight[: top.vocab], entropy))
    found = []
    for way, given in ((whole, dense), (chunked, side)):
        states = tiny.randn(TOKENS, WIDTH, seed=2).requires_grad_()
        total, sums = way(
            states, top, given, rows(top.vocab), terms, [0.4, 1.3][: len(terms)], chunk=4
        )
        total.backward()
        found.append((total.detach(), sums, states.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_mean_rows_are_refused_where_the_head_learns():
    top = head("plain")
    side = Signal(mean=HeadMean(tiny.randn(TOKENS, WIDTH), tiny.randn(TOKENS)))
    with pytest.raises(RecipeError, match="one frozen student head"):
        both(chunked, top, side, [forward_kl])


@pytest.mark.parametrize("term", [reverse_kl, partial(forward_kl, temperature=2.0)])
@pytest.mark.parametrize("way", [chunked, whole])
def test_sampled_ids_serve_forward_kl_at_temperature_one_only(way, term):
    with pytest.raises(RecipeError, match="topk\\+rest"):
        both(way, head("plain"), sampled_side(ROWS), [term])


def test_an_objective_of_the_users_own_takes_the_graph():
    def entropy(student, teacher, rows):
        logprobs = student.log_softmax(-1)
        return -(logprobs.exp() * logprobs).sum(-1)

    top, terms = head("capped"), [entropy, cross_entropy]
    assert Fusion.of(terms, [1.0, 1.0], top.weight) is None
    wanted = both(whole, top, None, terms)
    for one, other in zip(both(chunked, top, None, terms, chunk=4), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_a_masked_id_has_no_slope():
    top, dense = head("plain"), logits_side(ROWS)
    dense.logits[:, 3] = -torch.inf
    side = Signal(topk=golden.topk(dense.logits, ROWS))
    for given in (dense, side):
        for term in (forward_kl, total_variation, jensen_shannon):
            assert all(bool(part.isfinite().all()) for part in both(chunked, top, given, [term]))


@pytest.mark.parametrize("way", [chunked, whole])
@pytest.mark.parametrize(
    ("term", "message"),
    [
        (partial(forward_kl, temperature=-1.0), "temperature is -1"),
        (partial(forward_kl, temperature=0), "temperature is 0"),
        (partial(forward_kl, temperature=float("inf")), "temperature is inf"),
    ],
)
def test_a_temperature_that_is_none_is_refused(way, term, message):
    with pytest.raises(RecipeError, match=message):
        both_sums(way, logits_side(ROWS), [term])


@pytest.mark.parametrize("way", [chunked, whole])
def test_a_teacher_of_other_ids_is_refused(way):
    with pytest.raises(RecipeError, match="must be alike"):
        both_sums(way, logits_side(ROWS - 1), [forward_kl])


def test_another_tail_is_refused_for_every_teacher():
    with pytest.raises(RecipeError, match="tail is 'foo'"):
        both_sums(chunked, logits_side(ROWS), [partial(forward_kl, tail="foo")])


def test_a_teacher_that_says_nothing_is_refused():
    with pytest.raises(RecipeError, match="no distribution"):
        both_sums(chunked, Signal(), [forward_kl])


@pytest.mark.parametrize("way", [chunked, whole])
def test_an_infinite_term_that_is_only_watched_pulls_nothing(way):
    """Reverse KL is infinite where the teacher rules an id out."""
    logits = logits_side(ROWS).logits.clone()
    logits[:, 2] = -torch.inf
    states, top = tiny.randn(TOKENS, WIDTH).requires_grad_(), head("plain")
    terms = [forward_kl, reverse_kl]
    total, sums = way(states, top, Signal(logits=logits), rows(ROWS), terms, [1.0, 0.0], chunk=4)
    total.backward()
    assert torch.isinf(sums[1])
    assert torch.isfinite(states.grad).all()
    assert states.grad.norm() > 0


def both_sums(way, side, terms):
    return way(tiny.randn(TOKENS, WIDTH), head("plain"), side, rows(ROWS), terms, [1.0], chunk=4)
