"""The output head that a cache of hidden states keeps beside them, so that serving it needs no teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from limbeck import files
from limbeck.errors import Damaged
from limbeck.types import HeadLike

FOLDER = "head"
_TENSORS = "head.safetensors"


@dataclass(frozen=True)
class StoredHead:
    """A head that was read: weight (vocab, width), bias (vocab,) or None; scale and softcap of the logits."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    vocab: int


def head_digest(head: HeadLike) -> str:
    """SHA-256 of the numbers of a head, and of how they are finished: 64 hexadecimal digits."""
    return files.digest(files.digest(save(_tensors(head))).encode() + files.canonical(_said(head)))


def write_head(path: Path, head: HeadLike) -> str:
    """Commits the head of a cache, once, and returns its digest; one that is there already is compared."""
    digest = head_digest(head)
    folder = path / FOLDER
    if not folder.exists():
        with files.committed(folder, {"head": digest}) as partial:
            save_file(_tensors(head), partial / _TENSORS)
            files.write_bytes(partial / "head.json", files.canonical(_said(head)))
    read_head(path, digest)
    return digest


def read_head(path: Path, digest: str) -> StoredHead:
    """The head of a cache; another than that of this digest, or a changed byte, is refused."""
    folder = path / FOLDER
    manifest = files.verify(folder)
    if manifest.about.get("head") != digest:
        raise Damaged(
            f"{folder}: the head {manifest.about.get('head')} stands there; the cache was recorded with "
            f"{digest}. It was moved here from another cache: record again into another folder."
        )
    said = files.read_json(folder / "head.json")
    tensors = load_file(folder / _TENSORS)
    return StoredHead(tensors["weight"], tensors.get("bias"), **said)


def _tensors(head: HeadLike) -> dict[str, Tensor]:
    """The rows of the ids that count."""
    with torch.no_grad():
        found = {"weight": head.weight[: head.vocab].cpu().clone().contiguous()}
        if head.bias is not None:
            found["bias"] = head.bias[: head.vocab].cpu().clone().contiguous()
    return found


def _said(head: HeadLike) -> dict[str, float | int | None]:
    return {"scale": float(head.scale), "softcap": head.softcap, "vocab": head.vocab}
