"""A cache of format 1 (top k of every token, as tensors) becomes one of format 2; nothing is computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from limbeck import files
from limbeck.cache.format import ABOUT, SHARDS, CacheAbout, shard_name
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, Damaged
from limbeck.progress import progress
from limbeck.types import TopK

_INFORMATIONAL = ("teacher_name", "libraries", "sha256")
_SAYS = ("teacher", "tokenizer", "vocab", "length", "k", "logprobs", "teacher_name", "libraries")


def version1(old: Path, new: Path, *, values: str | None = None) -> CacheAbout:
    """Writes the cache at `old` as `topk+rest` at `new`, and returns what it says of itself.

    values: how numbers are kept; as they were recorded where it is None. What is there already is not written again.
    """
    said = _said(old)
    about = CacheAbout(
        teacher=said["teacher"],
        tokenizer=said["tokenizer"],
        vocab=said["vocab"],
        length=said["length"],
        kind="topk+rest",
        k=said["k"],
        values=values or said["logprobs"],
        teacher_name=said["teacher_name"],
        libraries=said["libraries"],
    )
    if not (old / SHARDS).is_dir():
        raise Damaged(f"{old / SHARDS} is missing: the cache has lost its rows. Copy it again.")
    create_or_check(new, about)
    for folder in (new, new / SHARDS):
        files.sweep_abandoned(folder)
    identity = files.digest(
        files.canonical({key: value for key, value in said.items() if key not in _INFORMATIONAL})
    )
    shards = sorted(shard for shard in (old / SHARDS).iterdir() if shard.name[0] != ".")
    with progress("convert (shards)", len(shards)) as bar:
        for shard in shards:
            _shard(shard, identity, new, about)
            bar.advance(1)
    return about


def _said(old: Path) -> dict[str, Any]:
    """What the old cache says of itself."""
    place = old / ABOUT
    if not place.is_file():
        raise CacheMismatch(f"{old} holds no {ABOUT}: it is no cache of this program.")
    said = files.parse_sealed(place.read_bytes(), str(place))
    if said.get("version") != 1:
        raise CacheMismatch(
            f"{place}: version {said.get('version')} found; wanted 1, which alone needs this conversion."
        )
    lacking = [name for name in _SAYS if name not in said]
    if lacking:
        raise Damaged(
            f"{place}: says nothing of {', '.join(lacking)}; found {', '.join(sorted(said))}."
        )
    return said


def _shard(shard: Path, identity: str, new: Path, about: CacheAbout) -> None:
    """Writes one shard again, after each of its bytes is checked."""
    manifest = files.verify(shard)
    addresses, tokens = _rows(shard / "rows.json")
    if manifest.about.get("cache") != identity or shard_name(addresses) != shard.name:
        raise Damaged(
            f"{shard}: it belongs to the cache {manifest.about.get('cache')} and its rows make the name "
            f"{shard_name(addresses)}; it stands in {identity}. It was moved or renamed: take it out."
        )
    if (new / SHARDS / shard.name).exists():
        return
    tensors = _tensors(shard / "rows.safetensors")
    each = (len(addresses), about.length)
    wanted = {"ids": (*each, about.k), "logprobs": (*each, about.k), "rest": each}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if any(found.get(name) != shape for name, shape in wanted.items()):
        raise Damaged(f"{shard / 'rows.safetensors'}: {found} found; wanted {wanted}.")
    kept = TopK(
        tensors["ids"].to(torch.int64).flatten(0, 1),
        tensors["logprobs"].flatten(0, 1),
        tensors["rest"].flatten(),
    )
    every = torch.ones(len(addresses), about.length, dtype=torch.bool)
    write_shard(new, addresses, kept, about, tokens=tokens, recorded=every)


def _rows(place: Path) -> tuple[list[str], list[str]]:
    """The addresses and the tokens of the rows of a shard."""
    if not place.is_file():
        raise Damaged(
            f"{place} is missing, and the manifest does not list it. Copy the shard again."
        )
    rows = files.parse_json(place.read_bytes(), str(place))
    both = [rows.get(name) for name in ("addresses", "tokens")] if isinstance(rows, dict) else []
    lists = [one for one in both if isinstance(one, list) and all(isinstance(x, str) for x in one)]
    if len(lists) != 2 or len(lists[0]) != len(lists[1]):
        raise Damaged(
            f"{place}: wanted the addresses and the tokens of its rows, two equally long lists of text. "
            "Copy the shard again."
        )
    return lists[0], lists[1]


def _tensors(place: Path) -> dict[str, Tensor]:
    if not place.is_file():
        raise Damaged(
            f"{place} is missing, and the manifest does not list it. Copy the shard again."
        )
    try:
        return dict(load_file(place))
    except (SafetensorError, ValueError, LookupError) as reason:
        raise Damaged(
            f"{place}: not readable as tensors ({reason}). Copy the shard again."
        ) from reason
