"""Reads rows of a cache by content address, memory-mapped; refuses what was recorded from something else."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck import files
from limbeck.cache import format as form
from limbeck.cache import planes
from limbeck.cache.codec import Plane
from limbeck.cache.kinds import KINDS, Said
from limbeck.errors import CacheMismatch, Damaged

# Open shards. Each is a memory map and an open file, of which a process is commonly given 1,024.
_OPEN = 256
_CURE = (
    "Delete this shard's folder and run 'limbeck record' again: only its rows are recorded anew."
)


@dataclass(frozen=True)
class _Shard:
    """The list of a shard's rows. tokens: bytes (rows, 16). recorded: bits. starts: int64 (rows + 1,)."""

    folder: Path
    tokens: Plane
    recorded: Plane
    starts: NDArray[np.int64]


class CacheReader:
    """A verified cache, by content address.

    `about` is what the run wants; None takes the cache as it is. Every byte is hashed on opening; `lazily` hashes
    a shard when one of its rows is first read, for caches that take minutes to hash.
    """

    def __init__(
        self, path: Path | str, about: form.CacheAbout | None = None, *, lazily: bool = False
    ) -> None:
        self.path = Path(path)
        self.about = form.read_about(self.path)
        self._lazily = lazily
        if about is not None:
            form.check_same(self.path, self.about, about)
        self._shards: list[_Shard] = []
        # Where each row stands, what records most of it first: (shard, row).
        self._places: dict[str, list[tuple[int, int]]] = {}
        for folder in _shards(self.path):
            self._index(folder)
        for found in self._places.values():
            if len(found) > 1:
                found.sort(key=self._recorded, reverse=True)
        self._verified: set[int] = set()
        self._fit: set[int] = set()
        self._opened = functools.lru_cache(_OPEN)(self._open)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, address: str) -> bool:
        return address in self._places

    @property
    def addresses(self) -> tuple[str, ...]:
        """The rows that are recorded, in no order that means anything."""
        return tuple(self._places)

    def tokens(self, address: str) -> str:
        """The digest of the tokens that this row was recorded for."""
        self.check_holds([address])
        shard, row = self._places[address][0]
        digest: bytes = self._shards[shard].tokens[row].tobytes()
        return digest.hex()

    def covers(self, address: str, counted: Tensor) -> bool:
        """Whether every token of a row that counts is recorded; counted: bool (length,)."""
        wanted = np.packbits(counted.cpu().numpy(), bitorder="little")
        return any(self._holds(place, wanted) for place in self._places.get(address, ()))

    def recorded(self, address: str, counted: Tensor | None = None) -> Tensor:
        """Which tokens of a row are recorded, where most of those that count are: bool (length,).

        counted: bool (length,); None: all count. A row may stand in several shards.
        """
        self.check_holds([address])
        places = [self._shards[shard].recorded[row] for shard, row in self._places[address]]
        each = [np.unpackbits(b, bitorder="little", count=self.about.length) for b in places]
        masks = [torch.from_numpy(bits.view(bool).copy()) for bits in each]
        return max(masks, key=lambda mask: int((mask if counted is None else mask & counted).sum()))

    def read(self, addresses: Sequence[str], counted: Tensor, draws: Sequence[int]) -> Said:
        """What was recorded of the tokens of these rows that count, in order, on the CPU.

        counted: bool (rows, length). draws: which of the kept draws each row takes, where the kind keeps some.
        """
        self.check_holds(addresses)
        which = counted.cpu().numpy()
        if which.shape != (len(addresses), self.about.length):
            raise CacheMismatch(
                f"{self.path}: counted {which.shape}; wanted {(len(addresses), self.about.length)}, "
                "rows of the length that was recorded."
            )
        rows = zip(addresses, which, draws, strict=True)
        pieces = [self._piece(address, wanted, draw) for address, wanted, draw in rows]
        said: Said = KINDS[self.about.kind].decode(pieces, self.about)
        return said

    def check_holds(self, addresses: Sequence[str]) -> None:
        """Refuses if a row was never recorded: says which, and how many of how many."""
        missing = [address for address in addresses if address not in self._places]
        if missing:
            raise CacheMismatch(
                f"{self.path}: row {missing[0]} was never recorded; {len(missing):,} of the "
                f"{len(addresses):,} rows asked for are missing, the cache holds {len(self):,}. "
                "The text, the tokenizer or the length changed since, or recording is not finished: "
                "run 'limbeck record' with this recipe; it adds what is missing."
            )

    def _recorded(self, place: tuple[int, int]) -> int:
        """How many tokens of a row are recorded."""
        shard, row = place
        starts = self._shards[shard].starts
        return int(starts[row + 1] - starts[row])

    def _holds(self, place: tuple[int, int], wanted: Plane) -> bool:
        """Whether all of these bits are recorded."""
        shard, row = place
        return not bool((wanted & ~self._shards[shard].recorded[row]).any())

    def _piece(self, address: str, counted: Plane, draw: int) -> planes.Piece:
        """What is wanted of one row, from the shard that records it."""
        wanted = np.packbits(counted, bitorder="little")
        found = [place for place in self._places[address] if self._holds(place, wanted)]
        if not found:
            most = max(map(self._recorded, self._places[address]))
            raise CacheMismatch(
                f"{self.path}: row {address} counts {int(counted.sum())} tokens, some of which were not "
                f"recorded ({most} were): what counts changed since. Run 'limbeck record' with this "
                "recipe; it records the row again."
            )
        if not 0 <= draw < self.about.draws:
            raise CacheMismatch(
                f"{self.path}: draw {draw} of a row is wanted, {self.about.draws} were recorded."
            )
        number, row = found[0]
        shard = self._shards[number]
        begin, end = (int(start) for start in shard.starts[row : row + 2])
        chosen = None
        if end - begin != int(counted.sum()):
            recorded = np.unpackbits(shard.recorded[row], bitorder="little", count=len(counted))
            chosen = counted[recorded.view(bool)]
        return planes.Piece(self._opened(number), row, begin, end, chosen, draw)

    def _index(self, folder: Path) -> None:
        """Adds the rows of a shard, after its own bytes and its belonging are checked."""
        manifest = _read_manifest(folder) if self._lazily else _verified(folder)
        if manifest.about.get("cache") != self.about.identity:
            raise CacheMismatch(
                f"{folder}: recorded for the cache {manifest.about.get('cache')}, it stands in "
                f"{self.about.identity}. It was moved here from another cache: take it out."
            )
        # Copies: an index that stays open for each shard would be a map and a file for each.
        rows = {name: plane.copy() for name, plane in self._rows(folder).items()}
        addresses = [address.tobytes().hex() for address in rows["addresses"]]
        each = np.unpackbits(rows["recorded"], axis=1, bitorder="little").sum(1, dtype=np.int64)
        every = bool((each == self.about.length).all())
        name = form.shard_name(addresses, b"" if every else rows["recorded"].tobytes())
        if name != folder.name:
            raise Damaged(
                f"{folder}: its rows make the name {name}. "
                "It was renamed or swapped with another. Give it that name again."
            )
        starts = np.concatenate([np.zeros(1, np.int64), each.cumsum()])
        for row, address in enumerate(addresses):
            self._places.setdefault(address, []).append((len(self._shards), row))
        self._shards.append(_Shard(folder, rows["tokens"], rows["recorded"], starts))

    def _rows(self, folder: Path) -> dict[str, Plane]:
        """The list of a shard's rows, mapped, of the shapes that the length asks for."""
        try:
            found = planes.mapped(folder / form.ROWS)
            count = found["addresses"].size // 16 if "addresses" in found else 0
            layout = dict.fromkeys(("addresses", "tokens"), ("u1", (count, 16)))
            layout["recorded"] = ("u1", (count, -(-self.about.length // 8)))
            planes.check_layout(found, layout)
            beyond = self.about.length % 8
            if beyond and (found["recorded"][:, -1] >> beyond).any():
                raise Damaged(
                    "plane recorded has bits of tokens beyond the row's length; wanted 0."
                )
        except Damaged as reason:
            raise Damaged(f"{folder / form.ROWS}: {reason} {_CURE}") from reason
        return found

    def _open(self, number: int) -> dict[str, Plane]:
        """The planes of a shard, mapped; checked once, and lazily hashed once."""
        folder = self._shards[number].folder
        if self._lazily and number not in self._verified:
            _verified(folder)
            self._verified.add(number)
        found = planes.mapped(folder / form.PLANES)
        if number not in self._fit:
            try:
                KINDS[self.about.kind].fit(found, self.about, self._shards[number].starts)
            except Damaged as reason:
                raise Damaged(f"{folder / form.PLANES}: {reason} {_CURE}") from reason
            self._fit.add(number)
        return found


def _shards(path: Path) -> list[Path]:
    """The committed shards; what a writer has not finished is hidden and left alone."""
    found = sorted(shard for shard in (path / form.SHARDS).glob("*") if shard.name[0] != ".")
    for shard in found:
        if not re.fullmatch(r"[0-9a-f]{32}", shard.name) or not shard.is_dir():
            raise Damaged(f"{shard} stands among the shards and is none. Take it out.")
    return found


def _verified(shard: Path) -> files.Manifest:
    try:
        return files.verify(shard)
    except Damaged as reason:
        raise Damaged(f"{reason} {_CURE}") from reason


def _read_manifest(shard: Path) -> files.Manifest:
    """The manifest of a shard whose row list is whole; its planes are not looked at yet."""
    try:
        manifest = files.read_manifest(shard)
        claimed = manifest.files.get(form.ROWS, {}).get("sha256")
        path = shard / form.ROWS
        found = files.file_digest(path) if path.is_file() else "nothing"
        if claimed != found:
            raise Damaged(f"{path}: SHA-256 {found} found, {claimed} was written.")
    except Damaged as reason:
        raise Damaged(f"{reason} {_CURE}") from reason
    return manifest
