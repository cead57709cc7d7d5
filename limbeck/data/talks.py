"""Rows -> conversations, rendered, encoded, and no longer than a row.

What is left out is counted and never silent: rows that are refused stop the work or are set aside, what is too long is
shortened by whole turns or left out, and so is what counts nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from limbeck.data.controls import Controls, Said, Written
from limbeck.data.layouts import example
from limbeck.data.planes import Planes
from limbeck.data.records import Record
from limbeck.data.renderer import Renderer, Template
from limbeck.data.sieve import Sieve
from limbeck.data.spans import written
from limbeck.data.templates import none
from limbeck.data.tokenize import Encoded
from limbeck.data.turns import Conversation, Example, Text, Tokens
from limbeck.errors import DataError


@dataclass(frozen=True)
class Reading:
    """How conversations are read; part of the key, since each changes what comes out.

    length: the most tokens of one; too_long: what becomes of more. turns: which of the assistant's count.
    ending: the id that ends what has no end of its own.
    """

    length: int
    ending: int
    layout: str = "auto"
    turns: str = "all"
    too_long: str = "left"
    hostile: str = "stop"
    split: str = "train"
    most: int | None = None


@dataclass
class Counts:
    """What became of the rows. found: control strings in what was said, which stayed text."""

    conversations: int = 0
    texts: int = 0
    turns: int = 0
    counted: int = 0
    found: int = 0
    shortened: int = 0
    too_long: int = 0
    silent: int = 0


class _Hopeless(DataError):
    """What the next row would meet as well: no template, or one that does not come to an end."""


@dataclass(frozen=True)
class _One:
    """A row on its way: what it holds, and, but of tokens, how it is written."""

    record: Record
    given: Example
    text: Written | None

    @property
    def where(self) -> str:
        """'file:line'."""
        return self.record.where


@dataclass(frozen=True)
class Speech:
    """What conversations are written with. tokenizer: its name, for people; largest: of its ids."""

    tokenizer: str
    controls: Controls
    largest: int
    template: Template | None


class Writer:
    """Conversations as the template has them; a context, which holds the process that renders it from the first on."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._stack = ExitStack()
        self._renderer: Renderer | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def write(self, given: Conversation | Text) -> Written:
        """A conversation as the template has it; a text as it is."""
        controls = self._speech.controls
        if isinstance(given, Text):
            found = len(controls.pattern.findall(given.text))
            spans = ((0, len(given.text), given.weight),)
            return Written(given.text, (), spans, given.weight, found=found)
        if self._renderer is None:
            self._renderer = self._started()
        try:
            return written(given, self._renderer, controls)
        except DataError as reason:
            if self._renderer.ended:
                raise _Hopeless(str(reason)) from reason
            raise

    def _started(self) -> Renderer:
        if self._speech.template is None:
            raise _Hopeless(none(self._speech.tokenizer))
        try:
            return self._stack.enter_context(Renderer(self._speech.template))
        except DataError as reason:
            raise _Hopeless(str(reason)) from reason


@dataclass
class Talks:
    """The rows of a part on their way into a folder, and what was counted so far."""

    speech: Speech
    writer: Writer
    reading: Reading
    sieve: Sieve
    planes: Planes
    counts: Counts = field(default_factory=Counts)
    _held: list[_One] = field(default_factory=list)

    def take(
        self,
        rows: Iterable[Record],
        renamed: Callable[[dict[str, Any]], dict[str, Any]],
        characters: int,
    ) -> None:
        """Writes rows, so many characters at a time. Those that are refused are so in their order."""
        self.sieve.earlier = self._put_held
        held = 0
        for one in itertools.islice(self._read(rows, renamed), self.reading.most):
            self._held.append(one)
            held += len(one.text.text) if one.text else 1
            if held >= characters:
                self._put_held()
                held = 0
        self._put_held()

    def _put_held(self) -> None:
        # Emptied first: what is refused now calls for those before it, which are these.
        block, self._held = self._held, []
        if block:
            self._put(block)

    def _read(
        self, rows: Iterable[Record], renamed: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> Iterator[_One]:
        """The rows that are understood, rendered; the others are refused."""
        for record in rows:
            try:
                given = self._counting(example(renamed(record.row), self.reading.layout))
                text = None if isinstance(given, Tokens) else self.writer.write(given)
            except _Hopeless as reason:
                raise DataError(f"{record.where}: {reason}") from reason
            except DataError as reason:
                self.sieve.refuse(record.file, record.line, str(reason))
            else:
                yield _One(record, given, text)

    def _counting(self, given: Example) -> Example:
        if self.reading.turns == "all" or not isinstance(given, Conversation):
            return given
        *before, last = given.turns
        quiet = [replace(turn, weight=0.0) for turn in before]
        return replace(given, turns=(*quiet, last))

    def _put(self, block: Sequence[_One]) -> None:
        """Encodes rows and writes those that fit, and those that can be made to fit."""
        texts = [one.text for one in block if one.text is not None]
        encoded = iter(self._encode(texts))
        kept, said = list[_One](), list[Said]()
        for one in block:
            try:
                tokens = self._tokens(one.given) if one.text is None else self._only(encoded)
                fitting, short = self._fit(one, tokens)
            except DataError as reason:
                self.sieve.refuse(one.record.file, one.record.line, str(reason))
                continue
            self.sieve.kept += 1
            if short is not None and self._count(fitting, short):
                kept.append(fitting)
                said.append(short)
        if said:
            ids, sizes, weights = (
                np.concatenate([vars(one)[name] for one in said])
                for name in ("ids", "sizes", "weights")
            )
            counts = np.array([len(one.ids) for one in said], dtype=np.int64)
            self.planes.put(Encoded(ids, sizes, counts), kept, weights)

    def _encode(self, texts: Sequence[Written]) -> list[Said | DataError]:
        """The tokens of each, ended where they have no end of their own; or why it has none."""
        ending = np.array([self.reading.ending], dtype=np.int64)
        return [
            said
            if isinstance(said, DataError) or not one.ending
            else Said(
                np.concatenate([said.ids, ending]),
                np.concatenate([said.sizes, 0 * ending]),
                np.append(said.weights, np.float32(one.ending)),
            )
            for one, said in zip(texts, self.speech.controls.encode(texts), strict=True)
        ]

    @staticmethod
    def _only(encoded: Iterator[Said | DataError]) -> Said:
        said = next(encoded)
        if isinstance(said, DataError):
            raise said
        return said

    def _tokens(self, given: Example) -> Said:
        assert isinstance(given, Tokens)
        low, high = min(given.ids, default=0), max(given.ids, default=0)
        if not 0 <= low <= high <= self.speech.largest:
            told = " to ".join(f"{one:,}"[:40] for one in (low, high))
            raise DataError(
                f"input_ids from {told}; the tokenizer has 0 to {self.speech.largest:,}"
            )
        ids = np.array(given.ids, dtype=np.int64)
        return Said(ids, self.speech.controls.sizes(ids), np.array(given.weights, dtype=np.float32))

    def _fit(self, one: _One, said: Said) -> tuple[_One, Said | None]:
        """The row as it fits into `length` tokens, or None of it. Texts are cut into rows, and fit as they are."""
        if len(said.ids) <= self.reading.length:
            return one, said
        if self.reading.too_long == "error":
            raise DataError(
                f"{len(said.ids):,} tokens, and a row has {self.reading.length:,}; set 'length', or too_long: left "
                "or drop"
            )
        if self.reading.too_long == "left" and not isinstance(one.given, Conversation):
            return one, said
        if self.reading.too_long == "left" and isinstance(one.given, Conversation):
            shorter = self._shorter(one.given)
            if shorter is not None:
                self.counts.shortened += 1
                return replace(one, given=shorter[0], text=shorter[1]), shorter[2]
        self.counts.too_long += 1
        return one, None

    def _shorter(self, given: Conversation) -> tuple[Conversation, Written, Said] | None:
        """As many of the last exchanges as fit, with the system's turn before them."""
        system = [turn for turn in given.turns[:1] if turn.role == "system"]
        asks = [n for n, turn in enumerate(given.turns) if turn.role == "user" and n > len(system)]
        best, low, high = None, 0, len(asks)
        while low < high:
            middle = (low + high) // 2
            some = replace(given, turns=(*system, *given.turns[asks[middle] :]))
            text = self.writer.write(some)
            said = self._only(iter(self._encode([text])))
            if len(said.ids) <= self.reading.length:
                best, high = (some, text, said), middle
            else:
                low = middle + 1
        return best

    def _count(self, one: _One, said: Said) -> bool:
        """Adds a row to the counts; whether anything in it counts. The first token is nobody's label."""
        counted = int((said.weights[1:] != 0).sum())
        if not counted:
            self.counts.silent += 1
            return False
        self.counts.counted += counted
        self.counts.conversations += isinstance(one.given, Conversation)
        self.counts.texts += not isinstance(one.given, Conversation)
        if one.text is not None:
            self.counts.turns += one.text.turns
            self.counts.found += one.text.found
        return True
