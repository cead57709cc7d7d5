"""Dictionaries are the same for a seed, and a candidate's log-probability is what the model alone gives it."""

import json

import pytest
import tiny
import tiny_planted
import tiny_text
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BambaConfig, BambaForCausalLM, PreTrainedTokenizerFast

from limbeck.errors import ModelError, RecipeError
from limbeck.models import onward, retrieval, trees
from limbeck.models.nouns import NOUNS
from limbeck.models.retrieval import Dictionary, dictionaries, parts, requests


def test_prompts_are_the_same_for_a_seed_and_others_for_another():
    assert dictionaries(12, 7, 3) == dictionaries(12, 7, 3)
    assert dictionaries(12, 7, 3) != dictionaries(12, 7, 4)


def test_a_dictionary_has_different_words_and_values_and_is_asked_five_times():
    found = dictionaries(12, 50, 0)
    assert [len(one.asked) for one in found] == [5, 5, 2]
    assert retrieval.right(found).shape == (12,)
    for one in found:
        assert len(set(one.words)) == len(set(one.values)) == 50
        assert set(one.words) <= set(NOUNS)
        assert all(10 <= value < 100 for value in one.values)
        assert len(set(one.asked)) == len(one.asked)
    assert [len(one.asked) for one in dictionaries(5, 2, 0)] == [2, 2, 1]


def test_nouns_are_many_and_all_different():
    assert len(NOUNS) == len(set(NOUNS)) > 300
    assert all(word.islower() and len(word) < 8 for word in NOUNS)


def test_a_prompt_reads_as_it_should():
    one = Dictionary(("river", "stone"), (42, 17), (1,))
    assert one.prompt(1) == (
        "Memorize the following dictionary:\nriver:42\nstone:17\nThe value of the key 'stone' is"
    )


@pytest.mark.parametrize(("prompts", "pairs"), [(0, 10), (10, 1), (10, 51)])
def test_what_cannot_be_asked_is_refused(prompts, pairs):
    with pytest.raises(RecipeError, match="wanted 1 prompt or more, of 2 to 50 pairs"):
        dictionaries(prompts, pairs, 0)


def test_a_token_that_begins_texts_stands_before_a_prompt():
    tokenizer = tiny_text.tokenizer()
    (plain,) = requests(tokenizer, dictionaries(1, 3, 0))
    first = tokenizer.bos_token_id
    assert plain[0].context[0] != first
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, first)]
    )
    (begun,) = requests(tokenizer, dictionaries(1, 3, 0))
    assert [one.context for one in begun] == [(first, *one.context) for one in plain]
    assert [one.candidate for one in begun] == [one.candidate for one in plain]


def test_a_tokenizer_that_does_not_know_numbers_is_refused():
    tokenizer = tiny_planted.tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    known = state["model"]["vocab"].items()
    state["model"]["vocab"] = {word: number for word, number in known if not word.isdigit()}
    backend = Tokenizer.from_str(json.dumps(state))
    poor = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[unk]")
    with pytest.raises(ModelError, match=r"so its numbers cannot be scored.*Choose a model"):
        requests(poor, dictionaries(2, 3, 0))


def naive(model, asked):
    """Each request alone through the whole model: float64 (requests,)."""
    found = []
    for one in (request for mine in asked for request in mine):
        ids = torch.tensor([[*one.context, *one.candidate]])
        with torch.no_grad():
            logprobs = model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        first = len(one.context) - 1
        found.append(sum(logprobs[first + n, i] for n, i in enumerate(one.candidate)))
    return torch.stack(found)


def answered(model, asked, at_once):
    rows = parts(model, asked, at_once)
    sums = torch.zeros(sum(map(len, asked)), dtype=torch.float64)
    with torch.no_grad():
        for part in rows:
            entered = onward.enter(model, part.input_ids, part.position_ids, part.mask)
            retrieval.add(model, part, entered.last, sums)
    return rows, sums


@pytest.mark.parametrize(("at_once", "rows_of"), [(1, 1), (100_000, 3)])
def test_a_tree_of_questions_gives_what_each_gives_alone(at_once, rows_of, monkeypatch):
    monkeypatch.setattr(trees, "_ROWS", 7)
    tokenizer = tiny_text.tokenizer()  # which spells numbers by digits
    model = tiny.llama(vocab=len(tokenizer), dtype=torch.float64)
    model.config.max_position_embeddings = 512
    asked = requests(tokenizer, dictionaries(12, 4, 0))
    assert len(asked[0][0].candidate) > 1
    rows, found = answered(model, asked, at_once)
    assert {part.input_ids.shape[0] for part in rows} == {rows_of}
    assert rows[0].mask is not None
    torch.testing.assert_close(found, naive(model, asked), atol=1e-9, rtol=0)


def test_a_model_that_no_tree_suits_reads_each_text_alone():
    tokenizer = tiny_planted.tokenizer()
    config = BambaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_layer_indices=[1],
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=4,
        mamba_chunk_size=8,
        pad_token_id=None,
    )
    model = tiny.randomised(BambaForCausalLM(config).double())
    asked = requests(tokenizer, dictionaries(3, 2, 0))
    rows, found = answered(model, asked, 100)
    assert all(part.mask is None for part in rows)
    torch.testing.assert_close(found, naive(model, asked), atol=1e-9, rtol=0)


def test_a_prompt_that_is_too_long_for_the_model_is_refused():
    tokenizer = tiny_planted.tokenizer()
    model = tiny.llama(vocab=len(tokenizer))
    with pytest.raises(ModelError, match=r"the model reads 128. Ask for fewer pairs"):
        parts(model, requests(tokenizer, dictionaries(1, 40, 0)), 1024)
