"""Puts rows into a cache: each shard is complete and verified, or absent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from limbeck import files
from limbeck.cache import format as form
from limbeck.cache import planes
from limbeck.cache.codec import Plane
from limbeck.cache.kinds import KINDS, Record
from limbeck.errors import CacheMismatch, NonFinite


def create_or_check(path: Path, about: form.CacheAbout) -> None:
    """Begins a cache, or makes sure that the one that is there was recorded from the same."""
    used = form.USES[about.kind]
    if ("head" in used and not about.head) or ("width" in used and not about.width):
        raise CacheMismatch(
            f"{path}: kind '{about.kind}' needs the width of the model and the digest of its head; "
            f"width {about.width}, head '{about.head}' found."
        )
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


def shard_folder(path: Path, addresses: Sequence[str], recorded: Tensor) -> Path:
    """Where the shard of these rows stands, or will; recorded: bool (rows, length)."""
    which = recorded.cpu().numpy().astype(bool)
    bits = b"" if which.all() else np.packbits(which, axis=1, bitorder="little").tobytes()
    return path / form.SHARDS / form.shard_name(addresses, bits)


def write_shard(
    path: Path,
    addresses: Sequence[str],
    record: Record,
    about: form.CacheAbout,
    *,
    tokens: Sequence[str],
    recorded: Tensor,
) -> Path:
    """Commits what was recorded of these rows as one shard and returns its folder.

    record: of the recorded tokens, row after row. tokens: the digest of each row's tokens. recorded: bool
    (rows, length), which tokens of each row are in the record.
    """
    which = np.asarray(recorded.cpu().numpy(), dtype=bool)
    folder = shard_folder(path, addresses, recorded)
    rows = _rows(folder, addresses, tokens, which, about)
    kind = KINDS[about.kind]
    if not isinstance(record, kind.HOLDS):
        raise CacheMismatch(
            f"{folder}: a {type(record).__name__} was given; kind '{about.kind}' keeps "
            f"{kind.HOLDS.__name__}."
        )
    places = np.concatenate([np.zeros(1, np.int64), which.sum(1, dtype=np.int64).cumsum()])
    try:
        found = kind.encode(record, about, places)
    except (CacheMismatch, NonFinite) as reason:
        raise type(reason)(f"{folder}: {reason}") from reason
    with files.committed(folder, {"cache": about.identity}) as partial:
        planes.write(partial / form.PLANES, found)
        planes.write(partial / form.ROWS, rows)
    return folder


def _rows(
    where: Path,
    addresses: Sequence[str],
    tokens: Sequence[str],
    recorded: Plane,
    about: form.CacheAbout,
) -> dict[str, Plane]:
    """The list of rows: addresses, tokens: bytes (rows, 16); recorded: bits (rows, bytes)."""
    if len(set(addresses)) != len(addresses) or len(tokens) != len(addresses):
        raise CacheMismatch(
            f"{where}: {len(addresses)} rows, {len(set(addresses))} different addresses, "
            f"{len(tokens)} token digests; wanted as many of each."
        )
    if recorded.shape != (len(addresses), about.length):
        raise CacheMismatch(
            f"{where}: recorded {recorded.shape}; wanted {(len(addresses), about.length)}, "
            "a bit for each token of each row."
        )
    return {
        "addresses": _digests(where, addresses),
        "tokens": _digests(where, tokens),
        "recorded": np.packbits(recorded, axis=1, bitorder="little"),
    }


def _digests(where: Path, names: Sequence[str]) -> Plane:
    """Digests as bytes (rows, 16)."""
    for name in names:
        if not re.fullmatch("[0-9a-f]{32}", name):
            raise CacheMismatch(f"{where}: '{name}' found; wanted 32 hexadecimal digits.")
    return np.frombuffer(bytes.fromhex("".join(names)), np.uint8).reshape(-1, 16)
