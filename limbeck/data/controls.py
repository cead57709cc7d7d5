"""Control strings: ids where the template wrote them, characters where somebody said them.

The tokenizer is copied with another spelling for each control string, one that no text can hold. What the template
wrote is put into that spelling before the text is encoded, and what stays is text; so all of a conversation is encoded
in one piece, as the tokenizer itself would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from limbeck.data.pieces import known
from limbeck.data.tokenize import Ids, byte_lengths, plain
from limbeck.errors import DataError

# Noncharacters of Unicode, which turns.check refuses in what is said.
_OPEN, _CLOSE = "\ufdd4", "\ufdd5"

Span = tuple[int, int]


@dataclass(frozen=True)
class Written:
    """A conversation as one string, and what is what in it. All places are of characters.

    controls: control strings of the template. spans: (begin, end, weight) of what the assistant says and how it ends.
    ending: the weight of a separator that has to be added, since nothing in the text ends the last turn; 0: none.
    turns: how many of them count; found: control strings in what was said, which stay text.
    """

    text: str
    controls: tuple[Span, ...]
    spans: tuple[tuple[int, int, float], ...]
    ending: float = 0.0
    turns: int = 0
    found: int = 0


@dataclass(frozen=True)
class Said:
    """Tokens of a conversation. ids, sizes: int64 (tokens,); weights: float32 (tokens,), of each as a label."""

    ids: Ids
    sizes: Ids
    weights: NDArray[np.float32]


class Controls:
    """The control strings of a tokenizer, and the encoding of texts in which some of them are text."""

    def __init__(self, tokenizer: Any) -> None:
        as_text = plain(tokenizer)
        added = as_text.get_added_tokens_decoder().items()
        self.strings = {token.content: number for number, token in added if token.special}
        longest = sorted(self.strings, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest)) or "(?!)")
        self.firsts = "".join(sorted({one[0] for one in self.strings}))
        self._numbers = {one: number for number, one in enumerate(self.strings)}
        self._ids = np.array(sorted(self.strings.values()), dtype=np.int64)
        self._sizes = known(as_text).sizes
        self._backend, self._table = _respelled(as_text, self._numbers, self.strings)

    def encode(self, written: Sequence[Written]) -> list[Said | DataError]:
        """The tokens of each, or why it has none that are right.

        A token counts where it begins in a span, and where the first word of a span takes spaces of the template's before it.
        """
        texts = [self._spelled(one) for one in written]
        found = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            self._said(one, text, encoding)
            for one, text, encoding in zip(written, texts, found, strict=True)
        ]

    def sizes(self, ids: Ids) -> Ids:
        """UTF-8 bytes of text that ids stand for, int64 (tokens,); 0 for control ids, and where an id does not say."""
        if self._sizes is None:
            return np.zeros(len(ids), dtype=np.int64)
        found: Ids = np.maximum(self._sizes[ids], 0)
        found[np.isin(ids, self._ids)] = 0
        return found

    def _spelled(self, written: Written) -> str:
        parts, before = [], 0
        for begin, end in written.controls:
            number = self._numbers[written.text[begin:end]]
            parts += [written.text[before:begin], f"{_OPEN}{number}{_CLOSE}"]
            before = end
        return "".join([*parts, written.text[before:]])

    def _said(self, written: Written, text: str, encoding: Any) -> Said | DataError:
        ids = self._table[np.array(encoding.ids, dtype=np.int64)]
        control = np.isin(ids, self._ids)
        if int(control.sum()) != len(written.controls):
            names = sorted(one for one, number in self.strings.items() if number in set(ids))
            return DataError(
                f"the tokenizer makes {int(control.sum())} control ids of {len(written.controls)} control strings "
                f"(it knows {', '.join(names)[:200]}), so that text cannot be told from control"
            )
        offsets = encoding.offsets
        begins = np.array([begin for begin, _ in offsets], dtype=np.int64)
        ends = np.array([end for _, end in offsets], dtype=np.int64)
        weights = np.zeros(len(ids), dtype=np.float32)
        shifts = self._shifts(written)
        for begin, end, weight in written.spans:
            first, last = (place + int(shifts(place)) for place in (begin, end))
            weights[(begins >= first) & (begins < last)] = weight
            for across in np.flatnonzero((begins < first) & (first < ends)):
                before, word = text[begins[across] : first], text[first : ends[across]]
                if not before.strip() and word.strip():
                    weights[across] = weight
        sizes = self.sizes(ids)
        wanted = len(written.text.encode()) - sum(
            len(written.text[begin:end].encode()) for begin, end in written.controls
        )
        if int(sizes.sum()) != wanted:
            sizes = byte_lengths(text, offsets)
            sizes[control] = 0
        return Said(ids, sizes, weights)

    def _shifts(self, written: Written) -> Any:
        """How far a place of the text moved when control strings before it were spelled anew."""
        ends = np.array([end for _, end in written.controls], dtype=np.int64)
        longer = [
            len(str(self._numbers[written.text[begin:end]])) + 2 - (end - begin)
            for begin, end in written.controls
        ]
        total = np.concatenate([[0], np.cumsum(np.array(longer, dtype=np.int64))])
        return lambda place: total[np.searchsorted(ends, place, side="right")]


def _respelled(
    backend: Tokenizer, numbers: dict[str, int], strings: dict[str, int]
) -> tuple[Tokenizer, Ids]:
    """A copy with the other spellings, and the tokenizer's own id of each id that it gives: int64 (ids,)."""
    whole = json.loads(backend.to_str())
    for token in whole["added_tokens"]:
        if token["content"] in numbers:
            token["content"] = f"{_OPEN}{numbers[token['content']]}{_CLOSE}"
            token["special"] = True
    # What it adds around a text the template writes, and offsets keep their spaces without it.
    whole["post_processor"] = None
    copied: Tokenizer = Tokenizer.from_str(json.dumps(whole))
    copied.encode_special_tokens = False
    own = backend.get_vocab(with_added_tokens=True)
    spelled = {f"{_OPEN}{number}{_CLOSE}": strings[one] for one, number in numbers.items()}
    found = copied.get_vocab(with_added_tokens=True)
    table = np.full(max(found.values()) + 1, -1, dtype=np.int64)
    for content, number in found.items():
        table[number] = spelled[content] if content in spelled else own[content]
    return copied, table
