"""Taps: the output of a module by its name, in every family, and what enters an attention."""

import pytest
import tiny
import tiny_families
import torch

from limbeck.errors import ModelError
from limbeck.models import attention, layout, load, taps
from limbeck.types import Wanted


def hidden_states(model, batch):
    return model(batch.input_ids, output_hidden_states=True).hidden_states


def test_a_tap_is_the_output_of_its_block_and_not_a_hidden_state():
    model, batch = tiny.llama(layers=3, dtype=torch.float64), tiny.batch(2, 9)
    wanted = Wanted(features=("layers.0", "layers.2", "norm"))
    last, features, _ = taps.signal(model, batch, wanted)
    states = [state.flatten(0, 1) for state in hidden_states(model, batch)]
    torch.testing.assert_close(features["layers.0"], states[1], atol=1e-12, rtol=0)
    # hidden_states ends with the state after the final norm: the last block's own output is not in it.
    assert not torch.allclose(features["layers.2"], states[3], atol=1e-3)
    torch.testing.assert_close(
        model.model.norm(features["layers.2"]), states[3], atol=1e-12, rtol=0
    )
    torch.testing.assert_close(features["norm"], last, atol=0, rtol=0)


@pytest.mark.parametrize("family", sorted(set(tiny_families.FAMILIES) - set(tiny_families.EAGER)))
def test_block_and_attention_are_seen_in_every_family(family):
    model = tiny_families.build(family)
    batch = tiny.batch(2, 12, documents=(7, 5), vocab=tiny.VOCAB)
    _, features, heads = taps.signal(
        model, batch, Wanted(features=("layers.1",), heads=("layers.1",))
    )
    alone = tiny.batch(2, 12, documents=(7, 5), vocab=tiny.VOCAB)
    first = layout.hidden(model, alone)
    assert features["layers.1"].shape == first.shape
    found = heads["layers.1"]
    assert found.queries.shape[0] == found.keys.shape[0] == 24
    assert found.edges.tolist() == [0, 7, 12, 19, 24]


def test_documents_that_run_apart_come_back_in_order(monkeypatch):
    model, batch = tiny.llama(dtype=torch.float64), tiny.batch(2, 12, documents=(7, 5))
    wanted = Wanted(features=("layers.0",), heads=("layers.1",))
    _, together, heads = taps.signal(model, batch, wanted)
    monkeypatch.setattr(layout, "PACKING", frozenset())
    _, apart, others = taps.signal(model, batch, wanted)
    torch.testing.assert_close(apart["layers.0"], together["layers.0"], atol=1e-12, rtol=0)
    for name in ("queries", "keys", "values"):
        mine, theirs = getattr(heads["layers.1"], name), getattr(others["layers.1"], name)
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_heads_make_the_attention_that_the_model_has():
    model, batch = tiny.llama(dtype=torch.float64), tiny.batch(1, 9)
    wanted = Wanted(features=("layers.0.self_attn",), heads=("layers.0.self_attn",))
    _, features, heads = taps.signal(model, batch, wanted)
    found = heads["layers.0.self_attn"]
    keys, values = (part.repeat_interleave(2, 1) for part in (found.keys, found.values))
    scores = torch.einsum("rhw,thw->hrt", found.queries, keys) * found.scale
    scores = scores.masked_fill(~torch.ones(9, 9, dtype=torch.bool).tril(), -torch.inf)
    mixed = torch.einsum("hrt,thw->rhw", scores.softmax(-1), values).flatten(1)
    out = model.model.layers[0].self_attn.o_proj(mixed)
    torch.testing.assert_close(out, features["layers.0.self_attn"], atol=1e-12, rtol=0)


def test_a_recomputed_block_does_not_overwrite_what_was_seen():
    model, batch = tiny.llama(dtype=torch.float64), tiny.batch(1, 9)
    plain = {}
    for checkpointing in (False, True):
        model.zero_grad()
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        last, features, heads = taps.signal(
            model, batch, Wanted(features=("layers.0", "layers.1.mlp"), heads=("layers.1",))
        )
        seen = {name: vectors.detach().clone() for name, vectors in features.items()}
        total = last.sum() + sum(vectors.square().sum() for vectors in features.values())
        (total + heads["layers.1"].keys.square().sum()).backward()
        for name, vectors in features.items():
            torch.testing.assert_close(vectors.detach(), seen[name], atol=0, rtol=0)
        plain[checkpointing] = {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }
    for name, gradient in plain[False].items():
        torch.testing.assert_close(plain[True][name], gradient, atol=1e-12, rtol=0)


def test_nobody_listens_after_a_forward():
    model = tiny.llama()
    taps.signal(model, tiny.batch(1, 5), Wanted(features=("layers.0",), heads=("layers.0",)))
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(vars(module).get(attention._WATCH) for module in model.modules())


def test_block_three_is_called_so_in_every_family():
    gpt2 = tiny_families.build("gpt2")
    assert taps.module(gpt2, "layers.0") is gpt2.transformer.h[0]
    assert taps.matching(gpt2, "layers.*.mlp") == ["layers.0.mlp", "layers.1.mlp"]
    assert taps.widths(gpt2, ["layers.0"])["layers.0"] == gpt2.config.hidden_size


def test_widths_are_found_without_weights():
    model = load.build_on_meta(tiny.llama().config)
    assert taps.widths(model, ["layers.1", "layers.0.mlp.up_proj"]) == {
        "layers.1": 16,
        "layers.0.mlp.up_proj": 32,
    }


@pytest.mark.parametrize("family", tiny_families.FAMILIES)
def test_widths_are_found_in_every_family(family):
    model = tiny_families.build(family)
    width = taps.widths(load.build_on_meta(model.config), ["layers.1"])
    assert width == {"layers.1": model.config.hidden_size}


@pytest.mark.parametrize(
    ("tap", "told"),
    [
        ("layers.2", r"layers\.0 to layers\.1"),
        ("layers.1.mpl", r"Did you mean layers\.1\.mlp"),
        ("lm_head", "no module"),
        ("", "no module"),
    ],
)
def test_a_name_that_is_not_there_is_told(tap, told):
    with pytest.raises(ModelError, match=told):
        taps.module(tiny.llama(), tap)


@pytest.mark.parametrize("pattern", ["layers.*.*", "layers.1*", "*.mlp", "layers.*.nothing"])
def test_a_pattern_that_means_nothing_is_told(pattern):
    with pytest.raises(ModelError):
        taps.matching(tiny.llama(), pattern)


def test_what_is_no_vector_a_token_is_refused():
    router = Wanted(features=("layers.0.mlp.gate",))
    with pytest.raises(ModelError, match="one vector a token"):
        taps.signal(tiny_families.build("mixtral"), tiny.batch(1, 5), router)
    with pytest.raises(ModelError, match="no attention was seen"):
        taps.signal(tiny.llama(), tiny.batch(1, 5), Wanted(heads=("layers.0.mlp",)))


def test_a_family_whose_forward_takes_no_such_mask_is_refused_by_its_name():
    model = tiny_families.build("bloom").train()
    with pytest.raises(ModelError, match="BloomForCausalLM: taps cannot be read"):
        taps.widths(model, ("layers.0",))
    assert model.training


def test_a_model_that_does_not_run_sdpa_is_refused():
    model = tiny.llama()
    model.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="sdpa"):
        taps.signal(model, tiny.batch(1, 5), Wanted(heads=("layers.0",)))
