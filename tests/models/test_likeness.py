"""Likeness: CKA equals a slow one of all pairs of tokens, and nothing else is looked at than tokens that count."""

import pytest
import tiny
import torch
from tiny_families import build

from limbeck.errors import NonFinite
from limbeck.models import layout, likeness, taps
from limbeck.types import Wanted


def slow(one, other):
    """CKA by Gram matrices of all tokens: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))."""
    count = one.shape[0]
    middle = torch.eye(count, dtype=torch.float64) - 1 / count

    def hsic(left, right):
        return torch.trace(left @ left.T @ middle @ right @ right.T @ middle)

    one, other = one.double(), other.double()
    return hsic(one, other) / (hsic(one, one) * hsic(other, other)).sqrt()


@pytest.mark.parametrize("tokens", [2, 5, 40])
def test_cka_equals_that_of_all_pairs_of_tokens(tokens):
    mine = [tiny.randn(tokens, 6, seed=seed) for seed in range(2)]
    theirs = [tiny.randn(tokens, 9, seed=seed) + tiny.randn(9, seed=5) for seed in range(2, 5)]
    found = likeness.cka(mine, theirs)
    assert found.shape == (2, 3)
    wanted = torch.stack([torch.stack([slow(one, other) for other in theirs]) for one in mine])
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("dtype", "common"), [(torch.float32, 1000.0), (torch.bfloat16, 10.0)])
def test_a_large_common_part_takes_no_digits_of_narrow_numbers(dtype, common):
    one = (tiny.randn(200, 6) + common * tiny.randn(6, seed=1)).to(dtype)
    other = (one.double() @ tiny.randn(6, 4, seed=2)).to(dtype)
    (found,) = likeness.cka([one], [other])
    torch.testing.assert_close(found[0], slow(one, other), rtol=1e-8, atol=0)


def test_equal_turned_scaled_and_moved_are_alike_and_stretched_is_not():
    one = tiny.randn(50, 7)
    turn, _ = torch.linalg.qr(tiny.randn(7, 7, seed=1))
    others = [one, one @ turn, one * -3.0, one + tiny.randn(7, seed=2)]
    torch.testing.assert_close(
        likeness.cka([one], others), torch.ones(1, 4, dtype=torch.float64), rtol=1e-12, atol=0
    )
    stretched = one * torch.arange(1.0, 8.0)
    assert likeness.cka([one], [stretched]) < 0.95


def test_other_sides_widths_and_order_do_not_matter():
    one, other = tiny.randn(30, 5), tiny.randn(30, 8, seed=1)
    forth, back = likeness.cka([one], [other]), likeness.cka([other], [one])
    torch.testing.assert_close(forth, back, rtol=1e-12, atol=0)
    order = torch.randperm(30, generator=tiny.generator())
    torch.testing.assert_close(likeness.cka([one[order]], [other[order]]), forth)


def test_what_is_the_same_at_every_token_is_like_nothing():
    constant = torch.ones(4, 3)
    found = likeness.cka([constant, tiny.randn(4, 3)], [constant])
    assert torch.equal(found, torch.zeros(2, 1, dtype=torch.float64))


def test_numbers_that_are_not_finite_are_told():
    with pytest.raises(NonFinite, match=r"compute\.dtype"):
        likeness.cka([torch.full((4, 3), torch.inf)], [torch.ones(4, 3)])


def test_nothing_of_tokens_by_tokens_is_made():
    many = tiny.randn(20_000, 3)
    sizes = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            sizes.append(found.numel() if isinstance(found, torch.Tensor) else 0)
            return found

    with Watched():
        likeness.cka([many, many], [many])
    assert max(sizes) == many.numel()


def test_blocks_are_what_the_taps_show_of_tokens_that_count():
    model, batch = tiny.llama(layers=3, dtype=torch.float64), tiny.batch(2, 12, documents=(5, 7))
    turns, found = likeness.blocks(model, batch)
    names = tuple(f"layers.{number}" for number in range(3))
    with torch.no_grad():
        _, seen, _ = taps.signal(model, batch, Wanted(features=names))
    assert turns.shape == (3, batch.counted.numel()) == (3, 20)
    for vectors, tap in zip(found, names, strict=True):
        assert torch.equal(vectors, batch.pick(seen[tap]))


def alone(model, ids):
    """1 - cos(input, output) of each block for one document in a forward of its own: (layers, time)."""
    turns = []

    def watch(_, given, out):
        after = out[0] if isinstance(out, tuple) else out
        turns.append(1 - torch.cosine_similarity(given[0].double(), after.double(), dim=-1)[0])

    hooks = [block.register_forward_hook(watch) for block in layout.layers(model)]
    with torch.no_grad():
        layout.trunk(model)(ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(turns)


@pytest.mark.parametrize(("family", "changes"), [("llama", {}), ("bloom", {"n_layer": 2})])
def test_importance_of_packed_documents_is_that_of_each_alone(family, changes):
    """A family whose documents are run one a row pads them; padding does not count, nor do separators."""
    model, lengths = build(family, **changes, n_head=4), (3, 1, 9)
    packed = tiny.batch(1, 13, documents=lengths)
    # The last label of each document does not count.
    each = [alone(model, ids)[:, :-1] for ids in packed.input_ids.split(lengths, 1)]
    found = likeness.block_importance(model, packed)
    torch.testing.assert_close(found, torch.cat(each, 1).mean(1), rtol=1e-5, atol=1e-9)
