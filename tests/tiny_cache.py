"""A small text, a small teacher and a small cache, for tests of recording and reading."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import tiny
import torch

from limbeck.cache.format import CacheAbout, tokens_digest
from limbeck.cache.read import CacheReader
from limbeck.types import Batch, Signal, Wanted

LENGTH = 6


class Text:
    """A source of random rows, whose addresses are the digests of their tokens."""

    def __init__(self, rows: int = 10, length: int = LENGTH, *, seed: int = 0) -> None:
        self.rows = rows
        self.length = length
        whole = tiny.batch(rows, length, seed=seed)
        pairs = zip(whole.input_ids, whole.position_ids, strict=True)
        self._whole = replace(whole, addresses=tuple(tokens_digest(*pair) for pair in pairs))

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these positions; epochs repeat them in the same order."""
        index = torch.tensor([position % self.rows for position in positions])
        tensors = {
            name: getattr(self._whole, name)[index]
            for name in (
                "input_ids",
                "labels",
                "position_ids",
                "document_ids",
                "weights",
                "label_bytes",
            )
        }
        return Batch(**tensors, addresses=tuple(self._whole.addresses[row] for row in index))


class Whole:
    """A teacher that gives the logits of a tiny model, and counts the rows it was asked for."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.model = tiny.llama(dtype=dtype)
        self.asked = 0

    @torch.no_grad()
    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """Logits (tokens, vocab)."""
        self.asked += len(batch.addresses)
        out = self.model(batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        return Signal(logits=batch.pick(out.logits.flatten(0, 1)))


def about(**changes) -> CacheAbout:
    """What a cache of Whole's answers on Text says of itself."""
    settings = {"kind": "topk+rest", "k": 5, "values": "float32"}
    if changes.get("kind", "topk+rest") != "topk+rest":
        settings = {}
    given = {"vocab": tiny.VOCAB, "length": LENGTH} | settings | changes
    return CacheAbout(teacher="a" * 64, tokenizer="b" * 64, **given)


def read(reader: CacheReader, addresses: Sequence[str], *, draw: int = 0):
    """What a cache says of every token of these rows."""
    everything = torch.ones(len(addresses), reader.about.length, dtype=torch.bool)
    return reader.read(addresses, everything, [draw] * len(addresses))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file, hidden ones too."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
