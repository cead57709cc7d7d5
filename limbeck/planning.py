"""What is to be recorded: rows of one source or several, each once, in groups that become shards."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch
from limbeck.types import Batch, Source

# Rows looked at in one call while planning; only their addresses and which of their tokens count are kept.
_GLANCE = 256


@dataclass(frozen=True)
class Planned:
    """Rows that become one shard: their positions in the source, the addresses found there, what counts of each.

    counted: bits, bytes (rows, length / 8), of every place where the row stands.
    """

    positions: tuple[int, ...]
    addresses: tuple[str, ...]
    counted: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, start: int, size: int) -> Planned:
        """A micro-batch of them."""
        part = slice(start, start + size)
        return Planned(self.positions[part], self.addresses[part], self.counted[part])

    def masked(self, counted: Tensor) -> Planned:
        """The same rows with other tokens; counted: bool (rows, length)."""
        return replace(self, counted=tuple(_bits(row) for row in counted))

    def among(self, addresses: Container[str]) -> Planned:
        """The rows of these addresses."""
        found = zip(self.positions, self.addresses, self.counted, strict=True)
        return _planned([each for each in found if each[1] in addresses])

    def mask(self, length: int) -> Tensor:
        """Which tokens count: bool (rows, length)."""
        return torch.stack([_mask(bits, length) for bits in self.counted])


def _bits(counted: Tensor) -> bytes:
    return np.packbits(counted.cpu().numpy()).tobytes()


def _mask(bits: bytes, length: int) -> Tensor:
    found = np.unpackbits(np.frombuffer(bits, np.uint8), count=length)
    return torch.from_numpy(found.astype(bool))


def groups(
    source: Source, positions: Sequence[int], size: int, poll: Callable[[], None]
) -> Iterator[Planned]:
    """The rows at these positions, each once and in order, in groups of `size`."""
    first: dict[str, tuple[int, bytes]] = {}
    for start in range(0, len(positions), _GLANCE):
        poll()
        glance = positions[start : start + _GLANCE]
        batch = source.batch(glance)
        found = zip(glance, batch.addresses, batch.weights != 0, strict=True)
        for position, address, counted in found:
            bits = _bits(counted)
            if address in first:
                position, before = first[address]
                bits = bytes(a | b for a, b in zip(before, bits, strict=True))
            first[address] = position, bits
    rows = [(position, address, bits) for address, (position, bits) in first.items()]
    for start in range(0, len(rows), size):
        yield _planned(rows[start : start + size])


def _planned(found: Sequence[tuple[int, str, bytes]]) -> Planned:
    positions, addresses, counted = zip(*found, strict=True) if found else ((), (), ())
    return Planned(positions, addresses, counted)


def missing(rows: Planned, reader: CacheReader) -> Planned:
    """Those rows of a group of which no committed shard holds all that counts."""
    found = zip(rows.positions, rows.addresses, rows.counted, strict=True)
    length = reader.about.length
    return _planned([each for each in found if not reader.covers(each[1], _mask(each[2], length))])


class Several:
    """Parts of several sources as one: what the stages of a run will read, recorded in one plan."""

    def __init__(self, parts: Sequence[tuple[Source, int]]) -> None:
        """parts: a source, and how many of its rows, from the first position on. All of one length."""
        self.parts = parts
        self.length = parts[0][0].length
        self.rows = sum(rows for _, rows in parts)
        self.identity = " + ".join(source.identity for source, _ in parts)
        for source, _ in parts:
            if source.length != self.length:
                raise CacheMismatch(
                    f"stages of {self.length} and of {source.length} tokens a row cannot be recorded into one cache. "
                    "Give them one length, or a recipe and a teacher.cached.path each."
                )

    def batch(self, positions: Sequence[int]) -> Batch:
        """The rows at these positions, counted through all parts."""
        found = []
        before = 0
        for source, rows in self.parts:
            here = [place - before for place in positions if before <= place < before + rows]
            found += [source.batch(here)] if here else []
            before += rows
        return found[0] if len(found) == 1 else _together(found)


def _together(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches, one after the other."""
    joint: dict[str, Any] = {}
    for item in fields(Batch):
        values = [getattr(batch, item.name) for batch in batches]
        tensors = isinstance(values[0], Tensor)
        joint[item.name] = torch.cat(values) if tensors else sum(values, ())
    return Batch(**joint)
