"""Which tokenizers may be cut, where, and what their ids stand for; the others are left whole."""

import json

import pytest
import tiny_text
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from limbeck.data.pieces import cut, known


def backend(edit=lambda whole: None):
    whole = json.loads(tiny_text.tokenizer().backend_tokenizer.to_str())
    edit(whole)
    return Tokenizer.from_str(json.dumps(whole))


@given(st.text(max_size=60), st.integers(1, 9))
def test_pieces_are_the_text_and_each_but_the_first_begins_with_a_space(text, size):
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(piece.startswith(" ") for piece in pieces[1:])
    assert all(len(piece) >= size for piece in pieces[:-1])


def test_a_text_is_cut_before_a_space_after_a_sign_only():
    assert list(cut("aaaa bbbb cccc dddd", 4)) == ["aaaa", " bbbb", " cccc", " dddd"]
    assert list(cut("aaaa  bbbb\n\n cccc\n dddd", 4)) == ["aaaa", "  bbbb\n\n cccc\n dddd"]
    assert list(cut("\u6c34\u6c34 \u6c34\u6c34 \u6c34", 1)) == [
        "\u6c34\u6c34",
        " \u6c34\u6c34",
        " \u6c34",
    ]


@pytest.mark.parametrize("name", ["gpt2", "llama3_2", "qwen3"])
def test_well_known_tokenizers_may_be_cut(name):
    found = tiny_text.shared_tokenizer(name).backend_tokenizer
    about = known(found)
    assert about.cuts
    assert about.sizes is not None
    assert about.composes == (name == "qwen3")


def other_words(whole):
    whole["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {
                "type": "Split",
                "pattern": {"Regex": r"\w+ \w+|\s"},
                "behavior": "Isolated",
                "invert": False,
            },
            {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": False,
            },
        ],
    }


def no_words(whole):
    whole["pre_tokenizer"]["use_regex"] = False


def prefix_space(whole):
    whole["pre_tokenizer"]["add_prefix_space"] = True


def lower(whole):
    whole["normalizer"] = {"type": "Lowercase"}


def dropout(whole):
    whole["model"]["dropout"] = 0.1


def digits(whole):
    whole["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, whole["pre_tokenizer"]],
    }


@pytest.mark.parametrize("edit", [other_words, no_words, prefix_space, lower, dropout])
def test_a_tokenizer_that_is_not_known_to_be_safe_is_left_whole(edit):
    assert known(backend()).cuts
    assert known(backend(digits)).cuts
    assert not known(backend(edit)).cuts


@pytest.mark.parametrize(
    "token",
    [
        AddedToken("old wine", special=False),
        AddedToken("still", lstrip=True, special=False),
        AddedToken("still", rstrip=True, special=False),
    ],
)
def test_an_added_word_that_could_stand_across_a_cut_forbids_it(token):
    found = backend()
    found.add_tokens([AddedToken("alembic", special=False), AddedToken("   ", special=False)])
    assert known(found).cuts
    found.add_tokens([token])
    assert not known(found).cuts


def test_ids_stand_for_their_bytes():
    found = backend()
    found.add_tokens([AddedToken("caf\u00e9", special=False)])
    sizes = known(found).sizes
    assert sizes[found.token_to_id("caf\u00e9")] == 5
    assert sizes[found.token_to_id("\u0120")] == 1  # the sign that stands for a space
    for number in found.encode("drop by drop", add_special_tokens=False).ids:
        assert sizes[number] == len(found.decode([number]))


def test_ids_of_other_models_do_not_say():
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    assert known(words).sizes is None
    folded = backend(lower)
    assert known(folded).sizes is None
    prefixed = Tokenizer(models.BPE({"a": 0, "##a": 1}, [], continuing_subword_prefix="##"))
    prefixed.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert known(prefixed).sizes is None
    composed = backend()
    composed.normalizer = normalizers.NFC()
    assert known(composed).sizes is not None
