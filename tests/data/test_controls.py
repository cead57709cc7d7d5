"""What a template wrote becomes control ids, what was said never does, and both are encoded in one piece."""

import numpy as np
import pytest
import tiny_chat
import tiny_text
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.controls import Controls, Written

NAMES = ("gpt2", "llama3_2", "qwen3")


def tokenizer_of(name):
    return tiny_chat.tokenizer() if name == "tiny" else tiny_text.shared_tokenizer(name)


@pytest.mark.parametrize("name", ["tiny", *NAMES])
def test_with_every_control_string_the_templates_it_is_the_tokenizers_own_encoding(name):
    tokenizer = tokenizer_of(name)
    controls = Controls(tokenizer)
    end = tokenizer.eos_token
    text = f"{end}Hello wörld \U0001f600{end}  \n\nand\t{end}{end} 12345 a{end}"
    places = tuple(match.span() for match in controls.pattern.finditer(text))
    begin = text.index("Hello")
    (found,) = controls.encode([Written(text, places, ((begin, begin + 5, 2.0),))])
    assert found.ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(found.ids[found.weights == 2]) == "Hello"
    assert int(found.sizes.sum()) == len(text.replace(end, "").encode())
    assert not found.sizes[found.ids == tokenizer.eos_token_id].any()


@pytest.mark.parametrize("name", ["tiny", *NAMES])
def test_control_strings_that_are_said_are_characters(name):
    tokenizer = tokenizer_of(name)
    controls = Controls(tokenizer)
    text = " ".join(list(controls.strings)[:40]) + "<|im_end|><|eot_id|>"
    (found,) = controls.encode([Written(text, (), ())])
    assert not set(found.ids.tolist()) & set(controls.strings.values())
    assert tokenizer.decode(found.ids) == text
    assert int(found.sizes.sum()) == len(text.encode())


def test_pieces_with_a_space_before_them_begin_once():
    """As a SentencePiece tokenizer's do: the text gets a space in front, a part behind a control string none."""
    words = ["<unk>", "<s>", "</s>", "▁", "▁a", "a", "▁b", "b"]
    vocab = {word: number for number, word in enumerate(words)}
    merges = [("▁", "a"), ("▁", "b")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken(one, normalized=False) for one in words[:3]])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    controls = Controls(tokenizer)
    text = "<s>a b</s>b"
    places = tuple(match.span() for match in controls.pattern.finditer(text))
    (found,) = controls.encode([Written(text, places, ((4, 9, 1.0),))])
    assert found.ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids
    assert found.weights.tolist() == [0, 0, 1, 1, 0]
    assert int(found.sizes.sum()) == 4


def test_a_tokenizer_that_makes_control_ids_of_plain_text_is_told_of():
    vocab = {"<|end|>": 0, "a": 1}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    (found,) = Controls(tokenizer).encode([Written("<|end|>", (), ())])
    assert "text cannot be told from control" in str(found)


def test_ids_know_their_bytes_and_control_ids_have_none():
    tokenizer = tiny_chat.tokenizer()
    ids = np.array(tokenizer("é a<|im_end|>").input_ids)
    assert Controls(tokenizer).sizes(ids).sum() == len("é a".encode())


@pytest.mark.parametrize("name", NAMES)
def test_a_first_word_that_takes_the_templates_space_counts_and_a_space_alone_does_not(name):
    tokenizer = tokenizer_of(name)
    text = "Is it wet? A: Yes, it is."
    begin = text.index("Yes")
    (found,) = Controls(tokenizer).encode([Written(text, (), ((begin, len(text), 1.0),))])
    assert tokenizer.decode(found.ids[found.weights > 0]) == " Yes, it is."
    text = "A:\n\n\n Yes"
    begin = text.index("\n Yes")
    (found,) = Controls(tokenizer).encode([Written(text, (), ((begin, len(text), 1.0),))])
    assert tokenizer.decode(found.ids[found.weights > 0]).lstrip("\n") == " Yes"
    assert found.ids[0] in found.ids[found.weights == 0]
