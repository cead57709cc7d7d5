"""A silent head is one whose columns of o_proj are zero; a layer of silent heads has no attention."""

import pytest
import tiny
import torch
from tiny_families import BAMBA, build
from transformers import GPT2Config, GPT2LMHeadModel

from limbeck.errors import ModelError
from limbeck.models.silence import attentions, silenced

KNOWN = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text")
IDS = torch.randint(0, tiny.VOCAB, (2, 9), generator=tiny.generator())


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


@pytest.mark.parametrize("family", KNOWN)
def test_a_silent_head_is_one_whose_columns_are_zero(family):
    model, copy = build(family), build(family)
    found = attentions(model)
    assert [(one.block, one.heads, one.width) for one in found] == [(0, 4, 4), (1, 4, 4)]
    before = logits(model)
    with torch.no_grad():
        copy.model.layers[1].self_attn.o_proj.weight[:, 8:12] = 0
    with silenced(found[1], [2]):
        torch.testing.assert_close(logits(model), logits(copy), atol=1e-12, rtol=0)
    assert not torch.allclose(logits(copy), before)
    assert torch.equal(logits(model), before)  # nothing is left behind


@pytest.mark.parametrize("family", [name for name in KNOWN if name != "llama"])
def test_a_layer_of_silent_heads_is_one_whose_attention_is_skipped(family):
    """Not of the Llama in tiny_families, whose o_proj has a bias."""
    model = build(family)
    with silenced(attentions(model)[0], range(4)):
        found = logits(model)

    def skipped(module, given, output):
        return torch.zeros_like(output[0]), *output[1:]

    model.model.layers[0].self_attn.register_forward_hook(skipped)
    torch.testing.assert_close(found, logits(model), atol=1e-12, rtol=0)


def test_what_cannot_be_a_number_is_silenced_too():
    model = build("qwen3")
    attention = attentions(model)[0]
    with torch.no_grad():
        model.model.layers[0].self_attn.v_proj.weight[:4] = torch.inf  # read by heads 0 and 1
    assert not logits(model).isfinite().all()
    with silenced(attention, [0, 1]):
        assert logits(model).isfinite().all()


def test_the_hook_goes_where_the_block_ends_in_an_error():
    model = build("qwen3")
    before = logits(model)
    with pytest.raises(ZeroDivisionError), silenced(attentions(model)[0], [1]):
        _ = 1 / 0
    assert torch.equal(logits(model), before)


def test_a_hybrid_has_attention_in_some_of_its_blocks():
    assert [one.block for one in attentions(build("bamba", **BAMBA))] == [1]


def test_a_head_that_is_not_there_is_refused():
    with pytest.raises(ModelError, match=r"head 4 of block 1 is wanted.*heads 0 to 3"):
        silenced(attentions(build("qwen3"))[1], [0, 4]).__enter__()


def test_a_model_without_known_attention_is_refused():
    config = GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=16)
    with pytest.raises(
        ModelError, match=r"GPT2LMHeadModel: none of its 2 blocks has a 'self_attn'"
    ):
        attentions(GPT2LMHeadModel(config))
    with pytest.raises(ModelError, match=r"PhiAttention in block 0: o_proj found is NoneType"):
        attentions(build("phi"))
