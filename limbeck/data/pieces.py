"""What is known of byte-level tokenizers: how many bytes an id stands for, and where a text may be cut.

A text is cut before a space that comes after a sign. There each of the patterns below ends a word: none takes a
space in once it has taken a sign, and none looks back. So the ids of the pieces are the ids of the whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

PIECE = 2048
"""Characters of a piece: small enough that every core has some, large enough that few calls are made."""

_ENGLISH = "'s|'t|'re|'ve|'m|'ll|'d"
_SPACES = r"\s+(?!\S)|\s+"
# The words of GPT-2, of Llama 3 and of Qwen 2 and 3, as their tokenizer.json spells them.
_KNOWN = (
    rf"{_ENGLISH}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|{_SPACES}",
    *(
        rf"(?i:{_ENGLISH})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
        for digits in (r"\p{N}{1,3}", r"\p{N}")
    ),
)
# Signs that no pattern takes for a space: ASCII, Cyrillic, Arabic, Devanagari, CJK, Hangul.
_CUT = re.compile("(?<=[!-~\u0400-\u04ff\u0620-\u064a\u0904-\u0939\u4e00-\u9fff\uac00-\ud7a3]) ")


@dataclass(frozen=True)
class Known:
    """What a tokenizer's own file says of it.

    sizes: UTF-8 bytes of the text that each id stands for, int64 (ids,), or None where an id does not say; an id
    that does not stand for bytes has a number so small that no sum with it is the length of a text. composes:
    whether characters are composed first (NFC), so that only composed text keeps its bytes. cuts: whether the ids
    of a text are those of its pieces.
    """

    sizes: NDArray[np.int64] | None
    composes: bool
    cuts: bool


def known(backend: Tokenizer) -> Known:
    """Reads it."""
    whole = json.loads(backend.to_str())
    return Known(_byte_sizes(backend, whole), whole["normalizer"] is not None, _can_cut(whole))


def _byte_sizes(backend: Tokenizer, whole: dict[str, Any]) -> NDArray[np.int64] | None:
    model = whole["model"]
    named = any(model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix"))
    kinds = {step["type"] for step in _steps(whole["pre_tokenizer"])}
    if model["type"] != "BPE" or named or "ByteLevel" not in kinds or not _keeps(whole):
        return None
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    vocab = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    sizes = np.full(max([*vocab.values(), *added]) + 1, -(1 << 40), dtype=np.int64)
    for token, number in vocab.items():
        if alphabet.issuperset(token):
            sizes[number] = len(token)
    for number, one in added.items():
        sizes[number] = len(one.content.encode())
    return sizes


def _can_cut(whole: dict[str, Any]) -> bool:
    steps = list(_steps(whole["pre_tokenizer"]))
    return (
        _keeps(whole)
        and not whole["model"].get("dropout")
        and not any(_reaches(token) for token in whole["added_tokens"])
        and any(_has_words(step) for step in steps)
        and all(_known(step) for step in steps)
    )


def cut(text: str, size: int = PIECE) -> Iterator[str]:
    """Pieces of about `size` characters and more, which together are the text."""
    begin = 0
    while len(text) - begin > 2 * size:
        found = _CUT.search(text, begin + size)
        if found is None:
            break
        yield text[begin : found.start()]
        begin = found.start()
    yield text[begin:]


def _keeps(whole: dict[str, Any]) -> bool:
    """Whether text reaches the words as it is, or composed: neither changes what stands around a space."""
    return whole["normalizer"] is None or whole["normalizer"] == {"type": "NFC"}


def _steps(step: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step["type"] == "Sequence":
        for inner in step["pretokenizers"]:
            yield from _steps(inner)
    else:
        yield step


def _has_words(step: dict[str, Any]) -> bool:
    return bool(step["type"] == "Split" or (step["type"] == "ByteLevel" and step["use_regex"]))


def _known(step: dict[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return step["add_prefix_space"] is False
    if step["type"] == "Split":
        alone = step["behavior"] == "Isolated" and not step["invert"]
        return bool(alone and step["pattern"].get("Regex") in _KNOWN)
    return bool(step["type"] == "Digits")


def _reaches(token: dict[str, Any]) -> bool:
    """Whether an added token may stand across a cut, or takes what is beside it."""
    beside = token["lstrip"] or token["rstrip"]
    return not token["special"] and bool(beside or _CUT.search(token["content"]))
