"""Documents -> ids and byte lengths; and a tokenizer's fingerprint, taken by running it."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from limbeck.data.pieces import PIECE, cut, known
from limbeck.errors import DataError, ModelError
from limbeck.files import canonical

Ids = NDArray[np.int64]

# Not every control string is flagged as special: Qwen3 lists <think> and <|fim_prefix|> as plain added tokens.
_CONTROL = re.compile(r"(?s)(<.+>|\[.+\]|\{.+\})")

PROBES = (
    "",
    " ",
    "The alembic stands over the fire; drop by drop, what is light is kept.",
    "Numbers 7 42 365 1024 65536 3.14159 1,000,000 -1 0x1F 1e-5 00012  3   45",
    "  two   three    four     five\t\ttabs\n\n\nlines\r\nreturn \n end  ",
    "def f(x: int) -> str:\n    return f'{x!r:>10}'  # why\n\tif (a&&b) { c[i]++; } /* ok */",
    "I'm you're it's WE'LL don't THEY'VE o'clock 'quoted' \u201ccurly\u201d \u2014 dash\u2026",
    "caf\u00e9 cafe\u0301 \u212bngstr\u00f6m \ufb01ne \u00bd \u2460 \u00df \u0130\u0131 \u1e9e",
    "\u84b8\u7559\u5668\u3067\u84b8\u7559\u3059\u308b \uc99d\ub958\uae30 \u05d0\u05d1\u05d2 "
    "\u0627\u0644\u0625\u0646\u0628\u064a\u0642 \u0e2b\u0e21\u0e49\u0e2d \u0939\u093f\u0928\u094d\u0926\u0940 \u041a\u0443\u0431",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u200b\u00a0\u2028\u2029\u0085\ufeff|",
    "https://example.org/a?b=c&d=%20#e user@example.org ~/path_to/File-Name.tar.gz <b>x</b>",
    "a" * 300 + " " * 70 + "-" * 70 + "=" * 33 + "\n" * 9,
)


def _backend(tokenizer: Any) -> Tokenizer:
    if not tokenizer.is_fast:
        raise ModelError(
            f"{tokenizer.name_or_path}: a tokenizer in Python gives no offsets. Wanted: one that has a "
            "tokenizer.json; convert it with transformers.AutoTokenizer and save it again."
        )
    copied: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def plain(tokenizer: Any) -> Tokenizer:
    """A copy that takes control strings in a text ('<|im_end|>') for the characters they are."""
    return _split(_backend(tokenizer), tokenizer)


def _split(copied: Tokenizer, tokenizer: Any) -> Tokenizer:
    known = set(tokenizer.all_special_tokens)
    added = copied.get_added_tokens_decoder().values()
    for token in [t for t in added if not t.special]:
        if token.content in known or _CONTROL.fullmatch(token.content):
            copied.add_special_tokens([_flagged(token)])
    copied.encode_special_tokens = True
    return copied


def _flagged(token: AddedToken) -> AddedToken:
    return AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=token.normalized,
        special=True,
    )


@dataclass(frozen=True)
class Encoded:
    """Texts, one after the other. ids, sizes: int64 (tokens,), the UTF-8 bytes of each. counts: int64 (texts,)."""

    ids: Ids
    sizes: Ids
    counts: Ids

    def alone(self) -> list[tuple[Ids, Ids]]:
        """(ids, byte lengths) of each text."""
        ends = np.cumsum(self.counts)[:-1]
        return list(zip(np.split(self.ids, ends), np.split(self.sizes, ends), strict=True))


Encoder = Callable[[Sequence[str]], Encoded]


def encoder(tokenizer: Any, *, piece: int = PIECE) -> Encoder:
    """A function from texts to their tokens, made once for many calls.

    No special token is added, none is read out of the text. The byte lengths of a text sum to its UTF-8 bytes. In a
    byte-level tokenizer they are those of each id. Elsewhere, and where these do not sum to the text, they come from
    the places of the tokens: of pieces that share a character the first takes it, and what the tokenizer drops
    counts for the token after it. Texts longer than `piece` are cut where that changes no id.
    """
    return encoder_of(plain(tokenizer), piece=piece)


def spelled(tokenizer: Any) -> str:
    """A tokenizer as text that another process makes the same encoder of, without transformers."""
    found: str = plain(tokenizer).to_str()
    return found


def restored(text: str) -> Tokenizer:
    """What `spelled` was told of: control strings in a text are the characters they are."""
    found: Tokenizer = Tokenizer.from_str(text)
    # No tokenizer.json says this.
    found.encode_special_tokens = True
    return found


def encoder_of(backend: Tokenizer, *, piece: int = PIECE) -> Encoder:
    """`encoder` of what `plain` gives."""
    about = known(backend)

    def encode_texts(texts: Sequence[str]) -> Encoded:
        if about.sizes is None:
            return _by_places(backend, texts)
        found = _by_ids(backend, texts, about.sizes, piece if about.cuts else None)
        wanted = [_size(text, about.composes) for text in texts]
        total = np.concatenate([[0], np.cumsum(found.sizes)])
        ends = np.cumsum(found.counts)
        wrong = np.flatnonzero(total[ends] - total[ends - found.counts] != wanted)
        return _mended(found, wrong, _by_places(backend, [texts[int(n)] for n in wrong]))

    return encode_texts


def encode(tokenizer: Any, texts: Sequence[str]) -> list[tuple[Ids, Ids]]:
    """(ids, byte lengths) of each text; see `encoder`, which is faster for more than one call."""
    return encoder(tokenizer)(texts).alone()


def _by_ids(backend: Tokenizer, texts: Sequence[str], table: Ids, piece: int | None) -> Encoded:
    """Byte lengths from a table of ids, of which some may not stand for bytes of the text."""
    pieces = [[text] if piece is None else list(cut(text, piece)) for text in texts]
    found = backend.encode_batch_fast(
        list(itertools.chain.from_iterable(pieces)), add_special_tokens=False
    )
    lists = [one.ids for one in found]
    lengths = np.array([0, *map(len, lists)], dtype=np.int64).cumsum()
    ids = np.fromiter(itertools.chain.from_iterable(lists), np.int64, int(lengths[-1]))
    ends = lengths[np.array([0, *map(len, pieces)], dtype=np.int64).cumsum()]
    return Encoded(ids, table[ids], np.diff(ends))


def _by_places(backend: Tokenizer, texts: Sequence[str]) -> Encoded:
    """Byte lengths from where each token stands in its text."""
    found = backend.encode_batch(list(texts), add_special_tokens=False)
    none = np.zeros(0, dtype=np.int64)
    sizes = [byte_lengths(text, one.offsets) for text, one in zip(texts, found, strict=True)]
    ids = [np.array(one.ids, dtype=np.int64) for one in found]
    counts = np.array([len(one) for one in ids], dtype=np.int64)
    return Encoded(np.concatenate([none, *ids]), np.concatenate([none, *sizes]), counts)


def _mended(found: Encoded, wrong: Ids, right: Encoded) -> Encoded:
    """The same texts, of which some are taken from elsewhere."""
    if not len(wrong):
        return found
    alone = found.alone()
    for number, one in zip(wrong, right.alone(), strict=True):
        alone[number] = one
    ids, sizes = (np.concatenate(parts) for parts in zip(*alone, strict=True))
    return Encoded(ids, sizes, np.array([len(one) for one, _ in alone], dtype=np.int64))


def _size(text: str, composed: bool) -> int:
    """UTF-8 bytes of a text; -1 where it is not what the tokenizer sees of it."""
    if text.isascii():
        return len(text)
    if composed and not unicodedata.is_normalized("NFC", text):
        return -1
    return len(text.encode())


def byte_lengths(text: str, offsets: list[tuple[int, int]]) -> Ids:
    """UTF-8 bytes of each token, from character offsets: int64 (tokens,)."""
    if not offsets:
        return np.zeros(0, dtype=np.int64)
    ends = np.array(offsets, dtype=np.int64)[:, 1]
    if not text.isascii():
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        widths = 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000).astype(np.int64)
        ends = np.concatenate([[0], np.cumsum(widths)])[ends]
    total = len(text.encode())
    covered = np.maximum.accumulate(ends)
    covered[-1] = total
    lengths: Ids = np.diff(covered, prepend=0)
    return lengths


def separator_id(tokenizer: Any, separator: str) -> int:
    """The id that ends a document: 'eos', or the spelling of one token.

    The two can differ: an instruct model's eos ends a turn (<|im_end|>, <|eot_id|>), while documents were
    separated by another token in its pre-training (<|endoftext|>, <|end_of_text|>).
    """
    if separator == "eos":
        if tokenizer.eos_token_id is None:
            raise DataError(
                f"{tokenizer.name_or_path}: has no eos token to separate documents with. "
                "Give 'separator' one of its tokens."
            )
        return int(tokenizer.eos_token_id)
    found = tokenizer.get_vocab().get(separator)
    if found is None:
        special = ", ".join(tokenizer.all_special_tokens)
        raise DataError(
            f"separator: {separator!r} is not one token of {tokenizer.name_or_path}. "
            f"Its special tokens are: {special}."
        )
    return int(found)


def largest_id(tokenizer: Any) -> int:
    """The largest id that the tokenizer can give."""
    return int(max(tokenizer.get_vocab().values()))


def tokenizer_fingerprint(tokenizer: Any, *, roles: bool = True) -> str:
    """SHA-256 of what a tokenizer does: its ids, its special ids, and how it encodes.

    Without `roles` it tells only whether the same text becomes the same ids: which id ends a turn, and what stands
    around a text, may differ, as they do between a base model and its instruct sibling.

    Each piece of the vocabulary is decoded and encoded again, so that a changed merge shows. No name, path
    or library version is in it: the same behaviour has the same fingerprint, another has another.
    """
    backend, vocab = _backend(tokenizer), tokenizer.get_vocab()
    special = {
        name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")
    }
    found = hashlib.sha256()
    found.update(canonical(sorted((i, token) for token, i in vocab.items())))
    if roles:
        found.update(canonical([special, sorted(tokenizer.all_special_ids)]))
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    probes = [*PROBES, *(f"a{token} {token}\n b" for token in added)]
    pieces = backend.decode_batch([[i] for i in sorted(vocab.values())], skip_special_tokens=False)

    def ran(texts: Sequence[str], whole: bool) -> None:
        for one in backend.encode_batch_fast(texts, add_special_tokens=whole):
            found.update(np.array([len(one.ids), *one.ids], dtype="<i8").tobytes())

    if roles:
        ran(probes, whole=True)
    ran([*probes, *pieces], whole=False)
    _split(backend, tokenizer)
    ran(probes, whole=False)
    return found.hexdigest()
