"""Control strings stay text, bytes are counted exactly, and a fingerprint is behaviour."""

import functools
import json

import numpy as np
import pytest
import tiny_text
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.tokenize import (
    PROBES,
    encode,
    encoder,
    largest_id,
    plain,
    separator_id,
    tokenizer_fingerprint,
)
from limbeck.errors import DataError, ModelError

unicode_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)
TINY = encoder(tiny_text.tokenizer())


def sentencepiece_like():
    """Prepends and replaces spaces and falls back to bytes, as Llama 2's tokenizer does."""
    vocab = {"<unk>": 0, "\u2581": 1, "a": 2, "b": 3, "\u2581a": 4}
    vocab |= {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocab, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    backend.decoder = decoders.ByteFallback()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def changed(edit, **options):
    """The tiny tokenizer with its JSON edited."""
    whole = json.loads(tiny_text.tokenizer().backend_tokenizer.to_str())
    edit(whole)
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    backend = Tokenizer.from_str(json.dumps(whole))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named | options)


@settings(max_examples=300, deadline=None)
@given(unicode_text)
def test_byte_lengths_sum_to_the_bytes_of_the_text(text):
    ((ids, lengths),) = TINY([text]).alone()
    assert lengths.sum() == len(text.encode())
    assert len(ids) == len(lengths)
    assert (lengths >= 0).all()


@settings(max_examples=200, deadline=None)
@given(unicode_text.filter(bool))
def test_byte_lengths_are_exact_with_byte_fallback_and_a_prefix(text):
    ((_, lengths),) = encode(sentencepiece_like(), [text])
    assert lengths.sum() == len(text.encode())


@pytest.mark.parametrize("name", ["gpt2", "llama3_2", "qwen3"])
def test_byte_lengths_are_exact_for_real_tokenizers(name):
    texts = [*PROBES, "<|im_end|><|eot_id|><think>\u4e16\U0001f600"]
    for text, (ids, lengths) in zip(
        texts, encode(tiny_text.shared_tokenizer(name), texts), strict=True
    ):
        assert lengths.sum() == len(text.encode())
        assert len(ids) == len(lengths)


def test_each_id_of_a_byte_level_tokenizer_stands_for_its_bytes():
    ((ids, lengths),) = TINY(["\U0001f600a"]).alone()
    assert len(ids) == 5
    assert lengths.tolist() == [1, 1, 1, 1, 1]


def test_elsewhere_the_first_piece_of_a_divided_character_takes_its_bytes():
    ((ids, lengths),) = encode(sentencepiece_like(), ["\U0001f600a"])
    assert len(ids) == 6
    assert lengths.tolist() == [4, 0, 0, 0, 0, 1]


@pytest.mark.parametrize("name", ["gpt2", "llama3_2", "qwen3"])
@pytest.mark.parametrize("path", ["text/shakespeare.txt", "text/state_union.txt", "code"])
def test_ids_of_pieces_are_those_of_whole_documents(name, path):
    whole, encode_texts = plain_of(name), fast(name)
    if path == "code":
        lines = tiny_text.shared("code/python_stdlib_valid.jsonl").read_text().splitlines()
        texts = [json.loads(line)["text"] for line in lines[:60]]
    else:
        texts = [tiny_text.shared(path).read_text()[:400_000]]
    found = encode_texts(texts)
    for text, (ids, lengths) in zip(texts, found.alone(), strict=True):
        assert ids.tolist() == whole.encode(text, add_special_tokens=False).ids
        assert lengths.sum() == len(text.encode())
    # Where each token's text is known, its bytes are those of that text.
    (some,) = encode_texts([texts[0][:2000]]).alone()
    for number, size in zip(*some, strict=True):
        text = whole.decode([int(number)])
        if "\ufffd" not in text:
            assert len(text.encode()) == size


HOSTILE = st.text(
    alphabet=st.one_of(
        st.sampled_from(
            " \t\n\r\x0b\x0c\x1c\x85\u00a0\u2003\u3000\u200b'\u2019.,!-_sStTdDllLvereM019\u00bd\u0663"
        ),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=120,
)


@pytest.mark.parametrize("name", ["tiny", "gpt2", "llama3_2", "qwen3"])
@settings(max_examples=100, deadline=None)
@given(texts=st.lists(HOSTILE, min_size=1, max_size=3))
def test_hostile_text_may_be_cut_anywhere_that_is_said_to_be_safe(name, texts):
    for text, (ids, lengths) in zip(texts, small_pieces(name)(texts).alone(), strict=True):
        assert ids.tolist() == plain_of(name).encode(text, add_special_tokens=False).ids
        assert lengths.sum() == len(text.encode())


@functools.cache
def made(name):
    return tiny_text.tokenizer() if name == "tiny" else tiny_text.shared_tokenizer(name)


@functools.cache
def small_pieces(name):
    return encoder(made(name), piece=2)


@functools.cache
def fast(name):
    return encoder(made(name))


@functools.cache
def plain_of(name):
    return plain(made(name))


def test_what_the_tokenizer_drops_counts_for_a_neighbour():
    backend = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.normalizer = normalizers.Strip()
    ((ids, lengths),) = encode(PreTrainedTokenizerFast(tokenizer_object=backend), ["  a   "])
    assert ids.tolist() == [0]
    assert lengths.tolist() == [6]


@pytest.mark.parametrize("control", ["<|im_end|>", "<|endoftext|>", "<|im_start|>user\n"])
def test_control_strings_in_text_stay_text(control):
    tokenizer = tiny_text.tokenizer()
    assert set(tokenizer(f"a{control}b").input_ids) & {0, 1, 2}  # the trap is there
    ((ids, _),) = encode(tokenizer, [f"a{control}b"])
    assert not set(ids.tolist()) & {0, 1, 2}
    assert tokenizer.decode(ids) == f"a{control}b"


def test_control_strings_that_are_not_flagged_as_special_stay_text_too():
    tokenizer = tiny_text.shared_tokenizer("qwen3")
    text = "<think>a</think><|fim_prefix|><|im_end|><tool_call>"
    ((ids, _),) = encode(tokenizer, [text])
    assert ids.max() < 151_643  # where Qwen3's added tokens begin
    assert tokenizer.decode(ids) == text


def test_added_words_that_are_no_control_strings_are_used():
    tokenizer = tiny_text.tokenizer()
    tokenizer.add_tokens([AddedToken("alembic", special=False), AddedToken("   ", special=False)])
    ((ids, _),) = encode(tokenizer, ["an alembic   x"])
    assert {320, 321} <= set(ids.tolist())


def test_encoding_leaves_the_tokenizer_as_it_was():
    tokenizer = tiny_text.tokenizer()
    tokenizer("a b c", truncation=True, max_length=2)
    ((ids, _),) = encode(tokenizer, ["a b c d e f g"])
    assert len(ids) > 2
    assert tokenizer("<|im_end|>").input_ids == [2]


def test_texts_are_encoded_alone_or_together_alike():
    texts = [text for text in PROBES if text]
    for text, (ids, lengths) in zip(texts, TINY(texts).alone(), strict=True):
        ((alone, bytes_alone),) = TINY([text]).alone()
        np.testing.assert_array_equal(ids, alone)
        np.testing.assert_array_equal(lengths, bytes_alone)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False
        name_or_path = "old"

    with pytest.raises(ModelError, match="old: a tokenizer in Python"):
        encoder(Slow())


def test_the_separator_is_named_or_refused():
    tokenizer = tiny_text.tokenizer()
    assert separator_id(tokenizer, "eos") == 2
    assert separator_id(tokenizer, "<|endoftext|>") == 0
    with pytest.raises(DataError, match="'<eos>' is not one token"):
        separator_id(tokenizer, "<eos>")
    with pytest.raises(DataError, match="no eos token"):
        separator_id(sentencepiece_like(), "eos")


def test_the_largest_id_counts_added_tokens():
    assert largest_id(tiny_text.shared_tokenizer("qwen3")) == 151_668


def test_fingerprint_is_of_behaviour_not_of_names():
    first = tokenizer_fingerprint(tiny_text.tokenizer())
    assert len(first) == 64
    assert tokenizer_fingerprint(changed(lambda whole: None, name_or_path="elsewhere")) == first


def swap_ids(whole):
    vocab = whole["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def swap_merges(whole):
    merges = whole["model"]["merges"]
    merges.append(merges.pop(0))


def drop_merge(whole):
    whole["model"]["merges"].pop()


def prefix_space(whole):
    whole["pre_tokenizer"]["add_prefix_space"] = True


def lower(whole):
    whole["normalizer"] = {"type": "Lowercase"}


def digits(whole):
    whole["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, whole["pre_tokenizer"]],
    }


def strips(whole):
    whole["added_tokens"][2]["lstrip"] = True


def adds_start(whole):
    whole["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }


@pytest.mark.parametrize(
    "edit",
    [swap_ids, swap_merges, drop_merge, prefix_space, lower, digits, strips, adds_start],
)
def test_each_change_of_behaviour_changes_the_fingerprint(edit):
    first = tokenizer_fingerprint(tiny_text.tokenizer())
    assert tokenizer_fingerprint(changed(edit)) != first


def test_other_special_ids_change_the_fingerprint():
    first = tokenizer_fingerprint(tiny_text.tokenizer())
    assert tokenizer_fingerprint(changed(lambda whole: None, eos_token="<|endoftext|>")) != first
    longer = tiny_text.tokenizer()
    longer.add_tokens(["<extra>"])
    assert tokenizer_fingerprint(longer) != first


def test_a_real_tokenizer_has_the_same_fingerprint_when_saved_and_loaded(tmp_path):
    tokenizer = tiny_text.shared_tokenizer("gpt2")
    tokenizer.save_pretrained(tmp_path)
    again = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)
