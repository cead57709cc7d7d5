"""Reads rows of a cache by content address, memory-mapped; refuses what was recorded from something else."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from limbeck import files
from limbeck.cache import format as form
from limbeck.errors import CacheMismatch, Damaged
from limbeck.types import TopK

# Open shards; each is a memory map, of which Linux gives a process 65,530.
_OPEN = 256
_CURE = (
    "Delete this shard's folder and run 'limbeck record' again: only its rows are recorded anew."
)


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
        self._places: dict[str, tuple[Path, int, str]] = {}
        for shard in _shards(self.path):
            addresses, tokens = self._index(shard)
            for row, (address, digest) in enumerate(zip(addresses, tokens, strict=True)):
                self._places.setdefault(address, (shard, row, digest))
        self._opened = functools.lru_cache(_OPEN)(self._open)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, address: str) -> bool:
        return address in self._places

    def tokens(self, address: str) -> str:
        """The digest of the tokens that this row was recorded for."""
        return self._place(address)[2]

    def rows(self, addresses: Sequence[str]) -> TopK:
        """The kept tokens of these rows, in this order. ids, logprobs (rows x length, k); rest (rows x length,)."""
        self.check_holds(addresses)
        shape = (len(addresses), self.about.length, self.about.k)
        ids = torch.empty(shape, dtype=torch.int64)
        logprobs = torch.empty(shape, dtype=self.about.floats)
        rest = torch.empty(shape[:2], dtype=self.about.floats)
        for index, address in enumerate(addresses):
            shard, row, _ = self._place(address)
            slices = self._opened(shard)
            ids[index] = slices["ids"][row : row + 1].to(torch.int64)[0]
            logprobs[index] = slices["logprobs"][row : row + 1][0]
            rest[index] = slices["rest"][row : row + 1][0]
        return TopK(ids.flatten(0, 1), logprobs.flatten(0, 1), rest.flatten())

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

    def _place(self, address: str) -> tuple[Path, int, str]:
        if address not in self._places:
            self.check_holds([address])
        return self._places[address]

    def _index(self, shard: Path) -> tuple[list[str], list[str]]:
        """The addresses and token digests of a shard, after its own bytes and its belonging are checked."""
        manifest = _read_manifest(shard) if self._lazily else _verified(shard)
        if manifest.about.get("cache") != self.about.identity:
            raise CacheMismatch(
                f"{shard}: recorded for the cache {manifest.about.get('cache')}, it stands in "
                f"{self.about.identity}. It was moved here from another cache: take it out."
            )
        body = files.parse_json((shard / form.ROWS).read_bytes(), str(shard / form.ROWS))
        addresses, tokens = body["addresses"], body["tokens"]
        if form.shard_name(addresses) != shard.name:
            raise Damaged(
                f"{shard}: its rows make the name {form.shard_name(addresses)}. "
                "It was renamed or swapped with another. Give it that name again."
            )
        return addresses, tokens

    def _open(self, shard: Path) -> dict[str, Any]:
        """The three tensors of a shard, as slices of its memory map."""
        if self._lazily:
            _verified(shard)
        stream: Any = safe_open(shard / form.TENSORS, framework="pt")
        slices = {name: stream.get_slice(name) for name in ("ids", "logprobs", "rest")}
        wanted = [self.about.length, self.about.k]
        if slices["ids"].get_shape()[1:] != wanted or slices["logprobs"].get_shape()[1:] != wanted:
            raise Damaged(
                f"{shard}: ids {slices['ids'].get_shape()}, logprobs "
                f"{slices['logprobs'].get_shape()}; wanted (rows, {wanted[0]}, {wanted[1]})."
            )
        return slices


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
    """The manifest of a shard whose row list is whole; its tensors are not looked at yet."""
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
