"""The output head that a cache of hidden states keeps beside them, so that serving it needs no teacher."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from limbeck import files
from limbeck.errors import Damaged, LimbeckError
from limbeck.types import HeadLike

FOLDER = "head"
_TENSORS = "head.safetensors"
_SAYS = {"scale", "softcap", "vocab"}


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
        try:
            with files.committed(folder, {"head": digest}) as partial:
                with files.written_by(SafetensorError, partial / _TENSORS):
                    save_file(_tensors(head), partial / _TENSORS)
                files.write_bytes(partial / "head.json", files.canonical(_said(head)))
        except LimbeckError:
            if not folder.exists():  # else another recorder was faster, and is compared
                raise
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
    weight, bias = tensors.get("weight"), tensors.get("bias")
    vocab = said.get("vocab") if isinstance(said, dict) else None
    if weight is None or weight.ndim != 2 or weight.shape[0] != vocab or set(said) != _SAYS:
        shape = None if weight is None else tuple(weight.shape)
        raise Damaged(
            f"{folder}: a weight {shape} and {said} found; wanted (vocab, width), and {', '.join(sorted(_SAYS))}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise Damaged(f"{folder}: a bias {tuple(bias.shape)} found; wanted ({vocab},).")
    return StoredHead(weight, bias, **said)


def _tensors(head: HeadLike) -> dict[str, Tensor]:
    """The rows of the ids that count."""
    with torch.no_grad():
        found = {"weight": head.weight[: head.vocab].cpu().clone().contiguous()}
        if head.bias is not None:
            found["bias"] = head.bias[: head.vocab].cpu().clone().contiguous()
    return found


def _said(head: HeadLike) -> dict[str, float | int | None]:
    return {"scale": float(head.scale), "softcap": head.softcap, "vocab": head.vocab}
