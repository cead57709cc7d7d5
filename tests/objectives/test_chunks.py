import weakref
from dataclasses import replace

import golden
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.models.layout import Head
from limbeck.objectives._chunks import chunked, whole
from limbeck.objectives.cross_entropy import cross_entropy
from limbeck.objectives.forward_kl import forward_kl
from limbeck.objectives.reverse_kl import reverse_kl
from limbeck.types import Rows, Signal

TOKENS, WIDTH, ROWS, K = 9, 6, 13, 4


def head(kind, *, seed=1, learning=True):
    """A head of one kind, over ROWS ids."""
    weight = tiny.randn(ROWS, WIDTH, seed=seed).requires_grad_(learning)
    bias = tiny.randn(ROWS, seed=seed + 1).requires_grad_(learning) if kind == "bias" else None
    scale = 0.3 if kind == "scale" else 1.0
    vocab = ROWS - 3 if kind == "padded" else ROWS
    return Head(weight, bias, scale, 1.5 if kind == "softcap" else None, vocab)


def counted(tokens=TOKENS, *, vocab=ROWS - 3):
    """Rows whose weights differ; every fourth token does not count."""
    rows = tiny.rows(tokens, vocab=vocab)
    weights = tiny.randn(tokens, seed=9).abs()
    weights[::4] = 0.0
    return Rows(rows.labels, weights, rows.position_ids, rows.document_ids)


def teacher(kind, vocab, *, tokens=TOKENS):
    """A teacher that gives hidden states and a wider head, or the top k of the same distribution."""
    states, wide = 2 * tiny.randn(tokens, WIDTH + 2, seed=5), tiny.randn(ROWS, WIDTH + 2, seed=6)
    dense = Signal(hidden=states, head=Head(wide, None, 1.0, None, vocab))
    if kind == "dense":
        return dense
    return Signal(topk=golden.topk(dense.distribution(slice(0, tokens)), K))


def both(way, states, top, side, rows, terms, coefficients, **options):
    """Total, sums and the gradients of hidden states, weight and bias."""
    leaves = [states.detach().clone().requires_grad_(), top.weight, top.bias]
    leaves = [leaf for leaf in leaves if leaf is not None]
    total, sums = way(leaves[0], top, side, rows, terms, coefficients, **options)
    (3 * total).backward()
    gradients = [leaf.grad.clone() for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None
    return [total.detach(), sums, *gradients]


@pytest.mark.parametrize("tail", golden.TAILS)
@pytest.mark.parametrize("kind", ["plain", "bias", "softcap", "scale", "padded"])
@pytest.mark.parametrize("name", golden.DIVERGENCES)
def test_chunked_equals_whole_in_value_and_gradients(name, kind, tail):
    top, rows = head(kind), counted()
    states = tiny.randn(TOKENS, WIDTH, seed=2)

    def term(student, distribution, some):
        return golden.DIVERGENCES[name](student, distribution, some, temperature=1.7, tail=tail)

    # The tail says nothing of a dense teacher: once is enough.
    for side in ["topk", "dense"] if tail == "bucket" else ["topk"]:
        terms, coefficients = (cross_entropy, term), (0.3, 1.1)
        given = teacher(side, top.vocab)
        wanted = both(whole, states, top, given, rows, terms, coefficients)
        for chunk in (1, 7, TOKENS):
            found = both(chunked, states, top, given, rows, terms, coefficients, chunk=chunk)
            for one, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(tokens=st.integers(1, 20), chunk=st.integers(1, 25), seed=st.integers(0, 99))
def test_any_chunk_gives_the_same(tokens, chunk, seed):
    top, rows = head("bias", seed=seed), counted(tokens)
    states, side = tiny.randn(tokens, WIDTH, seed=seed), teacher("topk", ROWS, tokens=tokens)
    job = (states, top, side, rows, (forward_kl, reverse_kl), (1.0, 0.5))
    for one, other in zip(both(chunked, *job, chunk=chunk), both(whole, *job), strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)


def test_tied_head_gets_both_its_gradients():
    batch, side = tiny.batch(2, 9), Signal(logits=tiny.randn(16, tiny.VOCAB))
    gradients = []
    for way in (chunked, whole):
        model = tiny.llama(tied=True, dtype=torch.float64)
        weight = model.model.embed_tokens.weight
        top = Head(weight, None, 1.0, None, tiny.VOCAB)
        states = batch.pick(model.model(batch.input_ids).last_hidden_state.flatten(0, 1))
        total, _ = way(states, top, side, batch.rows, (forward_kl,), (1.0,), chunk=5)
        total.backward()
        gradients.append(weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)
    used = torch.zeros(tiny.VOCAB, dtype=torch.bool)
    used[batch.input_ids.unique()] = True
    assert gradients[0][used].abs().min() > 0


def test_gradient_equals_finite_differences():
    top, rows, side = head("softcap"), counted(), teacher("topk", ROWS)
    states = tiny.randn(TOKENS, WIDTH, seed=2)
    total, _, by_states, by_weight = both(chunked, states, top, side, rows, [forward_kl], [1.0])
    step, way = 1e-6, (tiny.randn(TOKENS, WIDTH, seed=3), tiny.randn(ROWS, WIDTH, seed=4))

    def moved(share):
        live = replace(top, weight=top.weight.detach() + share * way[1])
        return chunked(states + share * way[0], live, side, rows, [forward_kl], [1.0])[0]

    slope = (moved(step) - moved(-step)) / (2 * step)
    expected = ((by_states * way[0]).sum() + (by_weight * way[1]).sum()) / 3  # both() triples it
    torch.testing.assert_close(expected, slope, rtol=1e-7, atol=0)
    assert total > 0


def test_nothing_as_wide_as_the_vocabulary_lives_until_backward():
    seen, top = [], head("bias")
    states = tiny.randn(TOKENS, WIDTH, seed=2).requires_grad_()

    def noted(tensor):
        seen.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        total, _ = chunked(states, top, teacher("dense", ROWS), counted(), [forward_kl], [1.0])
    alive = sorted(tuple(found.shape) for found in (each() for each in seen) if found is not None)
    assert alive == [(TOKENS, WIDTH), (ROWS,), (ROWS, WIDTH)]
    total.backward()


def test_a_second_backward_through_one_graph_is_refused():
    total, _ = chunked(
        tiny.randn(TOKENS, WIDTH), head("plain"), None, counted(), [cross_entropy], [1.0]
    )
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


def watched_only(student, _, rows):
    """A term that the operator does not know."""
    return student[torch.arange(len(rows.labels)), rows.labels]


@pytest.mark.parametrize("term", [watched_only, cross_entropy])
@pytest.mark.parametrize("tokens", [TOKENS, 0])
def test_what_no_chunk_gives_a_gradient_has_zero_and_not_what_lay_in_memory(term, tokens):
    top = head("padded")
    states = tiny.randn(tokens, WIDTH, seed=2).requires_grad_()
    rows = counted()[slice(0, tokens)]
    torch.full((ROWS, WIDTH), torch.nan, dtype=states.dtype)  # what freed memory may hold
    total, _ = chunked(states, top, None, rows, [term, cross_entropy], [0.0, 0.0], chunk=4)
    (total + 0 * (states.sum() + top.weight.sum())).backward()
    assert torch.equal(top.weight.grad, torch.zeros_like(top.weight))
    assert torch.equal(states.grad, torch.zeros_like(states))


def test_frozen_head_gets_no_gradient_and_hidden_the_same():
    rows, side = counted(), teacher("dense", ROWS)
    gradients = []
    for learning in (True, False):
        states = tiny.randn(TOKENS, WIDTH, seed=2).requires_grad_()
        top = head("bias", learning=learning)
        chunked(states, top, side, rows, (forward_kl,), (1.0,), chunk=4)[0].backward()
        gradients.append(states.grad)
        assert (top.weight.grad is not None) == learning
    assert torch.equal(*gradients)


def test_frozen_trunk_still_teaches_the_head():
    top = head("plain")
    states = tiny.randn(TOKENS, WIDTH, seed=2)
    chunked(states, top, None, counted(), (cross_entropy,), (1.0,), chunk=4)[0].backward()
    assert top.weight.grad.abs().max() > 0


def test_without_gradients_values_are_the_same():
    job = (tiny.randn(TOKENS, WIDTH, seed=2), head("plain"), teacher("dense", ROWS), counted())
    wanted = chunked(*job, (forward_kl,), (2.0,), chunk=4)
    with torch.no_grad():
        total, sums = chunked(*job, (forward_kl,), (2.0,), chunk=4)
    assert not total.requires_grad
    assert torch.equal(total, wanted[0].detach())
    assert torch.equal(sums, wanted[1])


def test_sums_are_weighted_sums_of_the_terms_and_carry_no_gradient():
    states, top, rows = tiny.randn(TOKENS, WIDTH, seed=2), head("plain"), counted()
    terms = (cross_entropy, forward_kl)
    side = teacher("dense", ROWS)
    total, sums = chunked(states, top, side, rows, terms, (0.5, 0.0), chunk=4)
    for one, term in zip(sums, terms, strict=True):
        values = term(top(states), side.distribution(slice(0, TOKENS)), rows)
        torch.testing.assert_close(one, (values * rows.weights).sum().detach(), atol=1e-10, rtol=0)
    assert not sums.requires_grad
    torch.testing.assert_close(total.detach(), 0.5 * sums[0], atol=1e-10, rtol=0)


def test_tokens_that_do_not_count_change_nothing():
    top, rows, side = head("plain"), counted(), teacher("dense", ROWS)
    states = tiny.randn(TOKENS, WIDTH, seed=2)
    other = states.clone()
    other[::4] += 10 * tiny.randn(3, WIDTH, seed=3)
    job = (side, rows, (cross_entropy, forward_kl), (1.0, 1.0))
    first, second = (both(chunked, some, top, *job, chunk=4) for some in (states, other))
    for one, two in zip(first, second, strict=True):
        torch.testing.assert_close(one, two, atol=1e-12, rtol=0)
    assert torch.equal(first[2][::4], torch.zeros(3, WIDTH, dtype=torch.float64))


def test_appended_padding_changes_nothing():
    top, side = head("plain"), teacher("dense", ROWS)
    rows, states = counted(), tiny.randn(TOKENS, WIDTH, seed=2)
    short = chunked(states, top, side, rows, (forward_kl,), (1.0,), chunk=4)
    more = counted(TOKENS + 5)
    padded = Rows(
        more.labels,
        torch.cat([rows.weights, torch.zeros(5, dtype=torch.float64)]),
        more.position_ids,
        more.document_ids,
    )
    longer = Signal(
        hidden=torch.cat([side.hidden, torch.ones(5, WIDTH + 2).double()]), head=side.head
    )
    states = torch.cat([states, torch.ones(5, WIDTH).double()])
    long = chunked(states, top, longer, padded, (forward_kl,), (1.0,), chunk=4)
    torch.testing.assert_close(long[1], short[1], atol=1e-12, rtol=0)


def test_batch_where_nothing_counts_gives_zero_and_zero_gradients():
    top = head("bias")
    known, nothing = counted(), torch.zeros(TOKENS)
    rows = Rows(known.labels, nothing, known.position_ids, known.document_ids)
    terms = (cross_entropy, forward_kl)
    found = both(
        chunked, tiny.randn(TOKENS, WIDTH), top, teacher("dense", ROWS), rows, terms, (1.0, 1.0)
    )
    for part in found:
        assert torch.equal(part, torch.zeros_like(part))


def test_infinite_value_where_nothing_counts_is_not_felt():
    logits = torch.zeros(2, ROWS, dtype=torch.float64)
    logits[0, 3:] = -torch.inf
    rows = tiny.rows(2, vocab=ROWS)
    rows = Rows(rows.labels, torch.tensor([0.0, 1.0]), rows.position_ids, rows.document_ids)
    states = tiny.randn(2, WIDTH).requires_grad_()
    total, sums = chunked(states, head("plain"), Signal(logits=logits), rows, (reverse_kl,), (1.0,))
    assert torch.isfinite(sums).all()
    assert torch.isfinite(total)


def test_no_terms_and_no_tokens_give_zero():
    states, top = tiny.randn(TOKENS, WIDTH).requires_grad_(), head("plain")
    total, sums = chunked(states, top, None, counted(), (), ())
    total.backward()
    assert total.item() == 0
    assert sums.shape == (0,)
    assert torch.equal(states.grad, torch.zeros_like(states))
    empty = tiny.randn(0, WIDTH).requires_grad_()
    total, sums = chunked(empty, top, None, counted(0), (cross_entropy,), (1.0,))
    total.backward()
    assert (total.item(), sums.tolist()) == (0, [0])


def test_split_batch_gives_the_gradients_of_the_whole_batch():
    """Terms are sums, so the caller divides once and unequal parts weigh as they should."""
    rows, side, states = counted(), teacher("dense", ROWS), tiny.randn(TOKENS, WIDTH, seed=2)
    gradients = []
    for parts in ([(0, TOKENS)], [(0, 2), (2, 7), (7, TOKENS)]):
        top = head("plain")
        for start, end in parts:
            cut = slice(start, end)
            some = Signal(hidden=side.hidden[cut], head=side.head)
            chunked(states[cut], top, some, rows[cut], (forward_kl,), (1.0,), chunk=4)[0].backward()
        gradients.append(top.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_bf16_parameters_get_gradients_near_those_of_float64():
    rows, side = counted(), teacher("topk", ROWS)
    terms = (cross_entropy, forward_kl)
    exact_head, states = head("plain"), tiny.randn(TOKENS, WIDTH, seed=2)
    rough_head = Head(exact_head.weight.detach().bfloat16().requires_grad_(), None, 1.0, None, ROWS)
    exact = both(chunked, states, exact_head, side, rows, terms, (1.0, 1.0), chunk=4)
    rough = both(chunked, states.bfloat16(), rough_head, side, rows, terms, (1.0, 1.0), chunk=4)
    assert rough[0].dtype == torch.float32
    assert rough[2].dtype == rough[3].dtype == torch.bfloat16
    for one, other in zip(rough, exact, strict=True):
        gap = (one.double() - other).norm() / other.norm()
        assert gap < 0.03
