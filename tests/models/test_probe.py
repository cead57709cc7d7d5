"""What is lost is found where it was planted, in the same order each time, and as the slow way finds it."""

import copy

import pytest
import tiny
import tiny_planted
import torch
from tiny_families import BAMBA, build

from limbeck.errors import ModelError, NonFinite
from limbeck.models import probe, retrieval, silence

KNOWN = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "gemma2", "gemma3_text")


@pytest.fixture(scope="module")
def planted():
    """(the model, its tokenizer, what a probe of all its heads finds)."""
    model, tokenizer = tiny_planted.model(), tiny_planted.tokenizer()
    return model, tokenizer, probe.probe(model, tokenizer, prompts=20, pairs=10)


def test_the_planted_heads_are_found_and_no_other(planted):
    _, _, found = planted
    assert found.accuracy == 1
    assert set(found.ranked()[:2]) == {tiny_planted.GATHER[0], tiny_planted.AGGREGATE[0]}
    assert set(found.ranked_heads()[:2]) == {tiny_planted.GATHER, tiny_planted.AGGREGATE}
    for layer, lost in found.layers.items():
        needed = layer in (1, 3)
        assert lost.accuracy > 0.5 if needed else lost.accuracy == 0
        assert lost.logprob > 1 if needed else abs(lost.logprob) < 0.02
        assert lost.logprob > 5 * lost.error or not needed
        alone = [found.heads[layer, head].logprob for head in range(2)]
        assert found.of_heads(layer).logprob == pytest.approx(sum(alone))


def test_the_same_seed_finds_the_same_and_layers_need_no_heads(planted):
    model, tokenizer, found = planted
    again = probe.probe(model, tokenizer, prompts=20, pairs=10, heads=False)
    assert again.layers == found.layers
    assert not again.heads
    assert again.of_heads(1) is None
    assert again.ranked_heads() == again.ranked_by_heads() == []
    asked = {"prompts": 20, "pairs": 10}
    right, nats = probe.retrieves(model, tokenizer, **asked)
    assert (right, nats) == (found.accuracy, found.logprob)
    other = probe.probe(model, tokenizer, **asked, seed=1, heads=False)
    assert other.layers != found.layers


def test_of_equals_the_lower_comes_first():
    same, more = probe.Lost(0.0, 0.5, 0.0), probe.Lost(0.0, 0.7, 0.0)
    layers = {2: same, 0: same, 1: more}
    heads = {(1, 1): same, (1, 0): same, (0, 0): more, (0, 1): more, (2, 0): more, (2, 1): more}
    found = probe.Probed(1.0, 0.0, layers, heads)
    assert found.ranked() == [1, 0, 2]
    assert found.ranked_by_heads() == [0, 2, 1]
    assert found.ranked_heads() == [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0), (1, 1)]


def slowly(model, asked, layer, heads):
    """Each request alone through a copy whose weights are edited: float64 (requests,)."""
    without = copy.deepcopy(model)
    attention = without.model.layers[layer].self_attn
    width = attention.head_dim
    found = []
    with torch.no_grad():
        for head in heads:
            attention.o_proj.weight[:, head * width : (head + 1) * width] = 0
        for one in (request for mine in asked for request in mine):
            ids = torch.tensor([[*one.context, *one.candidate]])
            logprobs = without(ids, use_cache=False).logits[0].double().log_softmax(-1)
            first = len(one.context) - 1
            found.append(sum(logprobs[first + n, i] for n, i in enumerate(one.candidate)))
    return torch.stack(found)


@pytest.mark.parametrize("family", [*KNOWN, "bamba"])
def test_blocks_that_run_again_give_what_whole_models_without_the_head_give(family):
    tokenizer = tiny_planted.tokenizer()
    changes = {"vocab_size": len(tokenizer), "max_position_embeddings": 128}
    model = build(family, **changes, **(BAMBA if family == "bamba" else {}))
    asked = retrieval.requests(tokenizer, retrieval.dictionaries(3, 2, 0))
    rows = retrieval.parts(model, asked, 64)
    size = sum(map(len, asked))
    blocks = [one.block for one in silence.attentions(model)]
    wanted = [(block, head) for block in blocks for head in (None, 1)]
    found = probe.without(model, rows, wanted, size)
    torch.testing.assert_close(
        probe.whole(model, rows, size), slowly(model, asked, 1, ()), atol=1e-5, rtol=0
    )
    for (block, head), sums in found.items():
        heads = range(4) if head is None else [head]
        torch.testing.assert_close(sums, slowly(model, asked, block, heads), atol=1e-5, rtol=0)


def test_a_model_that_guesses_is_refused_before_anything_is_silenced(capsys):
    tokenizer = tiny_planted.tokenizer()
    model = tiny.llama(vocab=len(tokenizer))
    with pytest.raises(ModelError, match=r"of 20 values among 5; guessing finds 20%.*fewer pairs"):
        probe.probe(model, tokenizer, prompts=20, pairs=5)
    assert "silence" not in capsys.readouterr().err


def test_a_model_that_gives_no_numbers_is_refused():
    model = tiny_planted.model()
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises((NonFinite, ModelError), match="no number"):
        probe.probe(model, tiny_planted.tokenizer(), prompts=5, pairs=2)


def test_a_model_is_as_it_was_after_a_probe(planted):
    model, _, _ = planted
    fresh = tiny_planted.model()
    assert all(
        torch.equal(one, other)
        for one, other in zip(model.parameters(), fresh.parameters(), strict=True)
    )
    assert not any(module._forward_pre_hooks for module in model.modules())
