"""A projected layer is a plain layer of the merged weight, however it is computed, and shows what is inside it."""

import pytest
import tiny
import torch
from torch import nn

from limbeck.models import low_rank
from limbeck.models.low_rank import NarrowEmbedding, NarrowIn, NarrowOut, apart_is_cheaper

WIDE, NARROW, OTHER = 10, 6, 14


def layer(kind, *, bias=True, delta=False, seed=0):
    reads = kind is NarrowIn
    frozen = low_rank.frozen(tiny.randn(*((OTHER, WIDE) if reads else (WIDE, OTHER)), seed=seed))
    shape = (WIDE, NARROW) if reads else (NARROW, WIDE)
    made = kind(frozen, nn.Parameter(tiny.randn(*shape, seed=seed + 1)))
    if bias:
        made.bias = low_rank.frozen(tiny.randn(OTHER if reads else WIDE, seed=seed + 2))
    if delta:
        shape = (OTHER, NARROW) if reads else (NARROW, OTHER)
        made.delta = nn.Parameter(tiny.randn(*shape, seed=seed + 3))
    return made, tiny.randn(2, 5, NARROW if reads else OTHER, seed=seed + 4).requires_grad_()


def slopes(made, hidden):
    out = made(hidden)
    found = [p for p in made.parameters() if p.requires_grad]
    return out, torch.autograd.grad((out * tiny.randn(*out.shape, seed=9)).sum(), [hidden, *found])


@pytest.mark.parametrize("kind", [NarrowIn, NarrowOut])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("shown", [True, False])
def test_both_orders_and_the_merged_layer_give_the_same(monkeypatch, kind, bias, delta, shown):
    made, hidden = layer(kind, bias=bias, delta=delta)
    made.shown = shown
    wanted = None
    for apart in (True, False):
        monkeypatch.setattr(low_rank, "apart_is_cheaper", lambda *_, shown, apart=apart: apart)
        out, found = slopes(made, hidden)
        torch.testing.assert_close(out, made.plain()(hidden), atol=1e-12, rtol=0)
        wanted = wanted or found
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_only_projection_and_delta_learn():
    for kind in (NarrowIn, NarrowOut):
        made, hidden = layer(kind, delta=True)
        made(hidden).sum().backward()
        learned = {name for name, one in made.named_parameters() if one.grad is not None}
        assert learned == {"projection", "delta"}


def test_the_inner_product_is_shown_when_it_is_wanted():
    for kind in (NarrowIn, NarrowOut):
        made, hidden = layer(kind)
        seen = []
        made.inner.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        made.shown = True
        made(hidden)
        if kind is NarrowIn:
            wanted = hidden @ made.projection.T
        else:
            wanted = hidden @ made.frozen.T + made.bias
        torch.testing.assert_close(seen[0], wanted, atol=1e-12, rtol=0)


def test_what_the_teacher_has_goes_through_the_same_projection():
    made, hidden = layer(NarrowOut)
    seen = []
    made.beside.register_forward_hook(lambda m, i, o: seen.append(o))
    made(hidden)
    assert not seen
    made.given = tiny.randn(7, WIDE, seed=3)
    made(hidden)
    torch.testing.assert_close(seen[0], made.given @ made.projection.T)
    assert torch.autograd.grad(seen[0].sum(), made.projection)[0].abs().sum() > 0


def test_few_tokens_are_taken_through_thin_products_and_many_through_the_weight():
    assert apart_is_cheaper(64, 8192, 3072, 1536, shown=False)
    assert not apart_is_cheaper(6144, 8192, 3072, 1536, shown=False)
    # Where the inner product is made anyway, going on from it pays for longer.
    assert apart_is_cheaper(4096, 8192, 3072, 1536, shown=True)
    assert not apart_is_cheaper(4096, 8192, 3072, 1536, shown=False)
    assert not apart_is_cheaper(6144, 1024, 3072, 512, shown=True)


@pytest.mark.parametrize("delta", [True, False])
def test_projecting_gathered_rows_is_gathering_projected_rows(delta):
    """Invariant 66."""
    table = low_rank.frozen(tiny.randn(tiny.VOCAB, WIDE))
    made = NarrowEmbedding(table, nn.Parameter(tiny.randn(WIDE, NARROW, seed=1)))
    if delta:
        made.delta = nn.Parameter(tiny.randn(tiny.VOCAB, NARROW, seed=2))
    ids = tiny.batch(2, 9).input_ids
    whole = table @ made.projection + (made.delta if delta else 0.0)
    torch.testing.assert_close(made(ids), whole[ids], atol=1e-12, rtol=0)
    torch.testing.assert_close(made.plain(None)(ids), whole[ids], atol=1e-12, rtol=0)


def test_merging_narrow_numbers_is_done_in_float32():
    made, _ = layer(NarrowIn)
    narrow = made.to(torch.bfloat16)
    merged = narrow.plain()
    assert merged.weight.dtype == merged.bias.dtype == torch.float32
    wanted = narrow.frozen.float() @ narrow.projection.float()
    assert torch.equal(merged.weight, wanted)
