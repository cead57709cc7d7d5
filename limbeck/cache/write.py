"""Puts rows into a cache: each shard is complete and verified, or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from limbeck import files
from limbeck.cache import format as form
from limbeck.errors import CacheMismatch, NonFinite
from limbeck.types import TopK


def create_or_check(path: Path, about: form.CacheAbout) -> None:
    """Begins a cache, or makes sure that the one that is there was recorded from the same."""
    if not (path / form.ABOUT).exists():
        if any((path / form.SHARDS).glob("[!.]*")):
            raise CacheMismatch(
                f"{path} has shards and no {form.ABOUT}: what they were recorded from is unknown. "
                "Put the file back, or record into another folder."
            )
        form.write_about(path, about)
    # Read back also what was just written: another process may have been faster with something else.
    form.check_same(path, form.read_about(path), about)
    (path / form.SHARDS).mkdir(exist_ok=True)


def write_shard(
    path: Path,
    addresses: Sequence[str],
    kept: TopK,
    about: form.CacheAbout,
    *,
    tokens: Sequence[str],
) -> Path:
    """Commits the kept tokens of these rows as one shard and returns its folder.

    kept: ids and logprobs (rows x length, k), rest (rows x length,). tokens: the digest of each row's tokens.
    """
    name = form.shard_name(addresses)
    where = f"{path / form.SHARDS / name}"
    if len(set(addresses)) != len(addresses) or len(tokens) != len(addresses):
        raise CacheMismatch(
            f"{where}: {len(addresses)} rows, {len(set(addresses))} different addresses, "
            f"{len(tokens)} token digests; wanted as many of each."
        )
    rest = _checked(where, len(addresses), kept, about)
    shape = (len(addresses), about.length, about.k)
    tensors = {
        "ids": kept.ids.to("cpu").to(about.ids).reshape(shape).contiguous(),
        "logprobs": kept.logprobs.to("cpu", about.floats).reshape(shape).contiguous(),
        "rest": rest.to("cpu", about.floats).reshape(shape[:2]).contiguous(),
    }
    folder = path / form.SHARDS / name
    with files.committed(folder, {"cache": about.identity}) as partial:
        save_file(tensors, partial / form.TENSORS)
        rows = {"addresses": list(addresses), "tokens": list(tokens)}
        files.write_bytes(partial / form.ROWS, files.canonical(rows))
    return folder


def _checked(where: str, rows: int, kept: TopK, about: form.CacheAbout) -> torch.Tensor:
    """The rest of kept tokens that are fit to be written; else an error that says why they are not."""
    count = rows * about.length
    if kept.rest is None:
        raise CacheMismatch(f"{where}: the mass outside the kept ids is not known; it is needed.")
    wanted = (count, about.k)
    if kept.ids.shape != wanted or kept.logprobs.shape != wanted or kept.rest.shape != (count,):
        raise CacheMismatch(
            f"{where}: ids {tuple(kept.ids.shape)}, logprobs {tuple(kept.logprobs.shape)}, "
            f"rest {tuple(kept.rest.shape)}; wanted {wanted} twice and ({count},)."
        )
    low, high = int(kept.ids.min()), int(kept.ids.max())
    if low < 0 or high >= about.vocab:
        # A narrow integer wraps without a word: 70,000 would become 4,464 in uint16.
        raise CacheMismatch(
            f"{where}: ids from {low:,} to {high:,}; wanted 0 to {about.vocab - 1:,}. "
            "The teacher knows ids that the tokenizer does not."
        )
    ordered = kept.ids.sort(-1).values
    if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
        raise CacheMismatch(f"{where}: an id stands twice in one token's kept ids.")
    # A rounding above 0 is possible, a probability of 1.001 is not.
    for name, value in (("logprobs", kept.logprobs), ("rest", kept.rest)):
        if bool(value.isnan().any()) or bool((value > 1e-3).any()):
            raise NonFinite(f"{where}: {name} has a NaN or a probability above 1; nothing written.")
    return kept.rest
