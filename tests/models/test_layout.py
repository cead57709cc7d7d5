from dataclasses import replace

import pytest
import tiny
import torch
from tiny_families import BAMBA, EAGER, FAMILIES, MOE, build
from torch import nn
from torch.distributed.fsdp import fully_shard

from limbeck.errors import ModelError
from limbeck.models import attention, layout

each_family = pytest.mark.parametrize("family", FAMILIES)


@each_family
def test_head_of_hidden_equals_the_logits_of_the_model(family):
    model, batch = build(family), tiny.batch(2, 9)
    with torch.no_grad():
        ours = layout.head(model)(layout.hidden(model, batch))
        theirs = model(input_ids=batch.input_ids).logits.flatten(0, 1)
    # RMS norms and rotary tables of some families pass through float32.
    torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-5)


@each_family
def test_packed_documents_are_as_if_alone(family):
    model = build(family)
    packed = tiny.batch(2, 17, documents=(6, 1, 10))
    with torch.no_grad():
        together = layout.hidden(model, packed).unflatten(0, (2, 17))
        for start, end in ((0, 6), (6, 7), (7, 17)):
            alone = layout.trunk(model)(packed.input_ids[:, start:end], use_cache=False)
            found = together[:, start:end]
            torch.testing.assert_close(found, alone.last_hidden_state, atol=2e-6, rtol=2e-6)


def learned(model, states):
    """Hidden states (tokens, width) and the gradient of every parameter below them, of a loss of random weights."""
    trunk = layout.trunk(model)
    weights = tiny.randn(*states.shape).to(states.dtype)
    below = [parameter for parameter in trunk.parameters() if parameter.requires_grad]
    return states, torch.autograd.grad((states * weights).sum(), below, allow_unused=True)


def assert_same(found, wanted):
    """Values and gradients to rounding: 2e-6 for the values, gradients relative to the largest."""
    torch.testing.assert_close(found[0], wanted[0], atol=2e-6, rtol=2e-6)
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            size = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(ours, theirs, atol=1e-5 * size, rtol=1e-5)


@each_family
def test_documents_alone_learn_as_under_the_mask_of_transformers(family):
    ours, plain, packed = build(family), build(family), tiny.batch(2, 17, documents=(6, 1, 10))
    given = {"input_ids": packed.input_ids, "position_ids": packed.position_ids}
    masked = layout.trunk(plain)(**given, use_cache=False).last_hidden_state.flatten(0, 1)
    assert_same(learned(ours, layout.hidden(ours, packed)), learned(plain, masked))
    switched = ours.config._attn_implementation == attention.NAME
    assert switched == (family not in EAGER)


@each_family
def test_blocks_that_run_again_learn_the_same(family):
    once, again = build(family).train(), build(family).train()
    again.gradient_checkpointing_enable({"use_reentrant": False})
    packed = tiny.batch(2, 17, documents=(6, 1, 10))
    states = layout.hidden(again, packed)
    between = tiny.batch(2, 17, documents=(3, 14))  # whose edges must not be those of the first
    layout.hidden(again, between)
    assert_same(learned(again, states), learned(once, layout.hidden(once, packed)))


@each_family
def test_another_first_document_changes_nothing_in_the_second(family):
    model, packed = build(family), tiny.batch(2, 17, documents=(6, 11))
    other = packed.input_ids.clone()
    other[:, :6] = (other[:, :6] + 1) % tiny.VOCAB
    with torch.no_grad():
        before = layout.hidden(model, packed).unflatten(0, (2, 17))
        after = layout.hidden(model, replace(packed, input_ids=other)).unflatten(0, (2, 17))
    # Experts work through their tokens together, so that sums may come in another order.
    torch.testing.assert_close(after[:, 6:], before[:, 6:], atol=1e-6, rtol=0)
    assert (after[:, :6] - before[:, :6]).abs().max() > 1e-3


@each_family
def test_blocks_and_last_norm_are_found(family):
    model = build(family)
    assert len(layout.layers(model)) == 2
    seen = []
    handle = layout.final_norm(model).register_forward_hook(lambda *args: seen.append(args[2]))
    last = layout.hidden(model, tiny.batch(1, 5))
    handle.remove()
    torch.testing.assert_close(seen[-1].flatten(0, 1), last, atol=0, rtol=0)


def test_families_said_to_pack_are_those_tested_here():
    assert set(FAMILIES) == layout.PACKING


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("bamba", BAMBA),
        ("gpt_oss", {**MOE, "sliding_window": 4}),
        ("opt", {"ffn_dim": 16, "word_embed_proj_dim": 16}),
        ("bloom", {"n_layer": 2, "n_head": 4}),
    ],
)
def test_families_that_leak_get_each_document_as_a_row(family, changes):
    model = build(family, **changes)
    packed = tiny.batch(2, 17, documents=(6, 1, 10))
    with torch.no_grad():
        together = layout.hidden(model, packed).unflatten(0, (2, 17))
        plain = layout.trunk(model)(packed.input_ids, use_cache=False).last_hidden_state
        for start, end in ((0, 6), (6, 7), (7, 17)):
            alone = layout.trunk(model)(packed.input_ids[:, start:end], use_cache=False)
            found = together[:, start:end]
            torch.testing.assert_close(found, alone.last_hidden_state, atol=2e-6, rtol=2e-6)
    assert (plain[:, 6:] - together[:, 6:]).abs().max() > 1e-3


def test_head_cuts_padded_ids():
    model, batch = build("llama"), tiny.batch(1, 5)
    states = layout.hidden(model, batch)
    cut, full = layout.head(model, vocab=20)(states), layout.head(model)(states)
    assert torch.equal(cut, full[:, :20])
    with pytest.raises(ModelError, match="30 ids are wanted, its head has 29"):
        layout.head(model, vocab=30)


def test_head_holds_the_live_parameters_of_a_tied_model():
    model = build("qwen2")
    assert layout.head(model).weight is model.model.embed_tokens.weight


def test_bf16_logits_are_finished_in_float32():
    model = build("gemma2").bfloat16()
    head = layout.head(model)
    states = tiny.randn(3, 16).bfloat16()
    raw = states @ head.weight.T
    assert head(states).dtype == torch.float32
    wanted = torch.tanh(raw.float() / 1.5) * 1.5
    torch.testing.assert_close(head(states), wanted, atol=1e-6, rtol=0)


def test_adapted_model_is_seen_through_and_its_adapter_counts():
    peft = pytest.importorskip("peft")
    model, batch = tiny.llama(), tiny.batch(2, 9)
    before = layout.hidden(model, batch)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, settings)
    with torch.no_grad():
        ours = layout.head(adapted)(layout.hidden(adapted, batch))
        theirs = adapted(input_ids=batch.input_ids).logits.flatten(0, 1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (layout.hidden(adapted, batch) - before).abs().max() > 1e-3
    assert len(layout.layers(adapted)) == 2


def test_sharded_model_is_seen_through(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, batch = tiny.llama(tied=True), tiny.batch(2, 9)
        before = layout.head(model)(layout.hidden(model, batch)).detach()
        whole = Whole(model)
        for block in layout.layers(model):
            fully_shard(block)
        fully_shard(whole)
        torch.testing.assert_close(whole(batch), before, atol=1e-6, rtol=0)
        assert len(layout.layers(model)) == 2
        assert layout.final_norm(model) is model.model.norm
    finally:
        torch.distributed.destroy_process_group()


class Whole(nn.Module):
    """The outermost module, whose call gathers what stands outside the blocks."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, batch):
        return layout.head(self.student)(layout.hidden(self.student, batch))


def test_adapter_on_the_head_is_refused():
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "lm_head"])
    adapted = peft.get_peft_model(tiny.llama(), settings)
    with pytest.raises(ModelError, match="lm_head"):
        layout.head(adapted)


def test_things_that_are_no_language_model_are_refused():
    with pytest.raises(ModelError, match="Linear"):
        layout.trunk(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="ForCausalLM"):
        layout.trunk(tiny.llama().model)
