"""Numbers in few bytes, and back: log-probabilities, entropies, ids of more than 16 bits, vectors in groups."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Plane = NDArray[Any]
GROUP = 64
"""Numbers of a vector that share one scale."""
NOTHING = 255
"""The code of a probability of 0."""
# Tokens decoded at a time: what they need stays in the processor's cache.
_BLOCK = 4096


def log_codes(logs: Plane) -> NDArray[np.uint8]:
    """Log-probabilities as bytes: steps of 1/16 nat down to -12, of 1/2 nat down to -43, 255 for -inf.

    A step of s costs about s^2 / 24 nats of KL: 1.6e-4 above e^-12, and below there is no mass to be wrong about.
    """
    logs = np.minimum(logs, 0.0)
    nothing = np.isneginf(logs)
    logs = np.where(nothing, 0.0, logs)
    codes = np.where(logs > -12, -16 * logs, 192 + 2 * (-12 - logs))
    codes = np.minimum(np.rint(codes), NOTHING - 1)
    return np.where(nothing, NOTHING, codes).astype(np.uint8)


def logs_of(codes: Tensor) -> Tensor:
    """The log-probabilities of `log_codes`: uint8 (...) -> float32 (...)."""
    wide = codes.float()
    # The steeper line is the lower one exactly below -12.
    logs = torch.minimum(wide * (-1 / 16), 84 - wide * 0.5)
    return logs.masked_fill_(codes == NOTHING, -torch.inf)


def normalised(codes: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """uint8 (tokens, k) and (tokens,) -> float32 logs whose probabilities sum to 1 with the rest."""
    logs, rests = torch.empty(codes.shape), torch.empty(rest.shape)
    for start in range(0, codes.shape[0], _BLOCK):
        part = slice(start, start + _BLOCK)
        kept, left = logs_of(codes[part]), logs_of(rest[part])
        whole = kept.exp().sum(-1).add_(left.exp()).log_()
        torch.sub(kept, whole[:, None], out=logs[part])
        torch.sub(left, whole, out=rests[part])
    return logs, rests


def head_codes(logs: Plane, threshold: float) -> NDArray[np.uint8]:
    """Logs in [log threshold, 0] as bytes; at 1/50 no probability is wrong by more than 0.8 %."""
    return np.rint(np.clip(logs / math.log(threshold), 0, 1) * 255).astype(np.uint8)


def head_table(threshold: float) -> NDArray[np.float32]:
    """The probability of each byte of `head_codes`: (256,)."""
    return np.exp(math.log(threshold) * np.arange(256) / 255).astype(np.float32)


def entropy_codes(entropy: Plane, vocab: int) -> NDArray[np.uint8]:
    """Entropies in nats as bytes, linear over [0, log vocab].

    At 49,152 ids wrong by 0.021 at most and by nothing on average; it moves the loss that is shown, never a gradient,
    so that a second byte would buy nothing.
    """
    most = math.log(max(vocab, 2))
    return np.rint(np.clip(entropy / most, 0, 1) * 255).astype(np.uint8)


def entropies(codes: Plane, vocab: int) -> Tensor:
    """The entropies of `entropy_codes`: float32 (tokens,)."""
    return torch.from_numpy(codes).float() * (math.log(max(vocab, 2)) / 255)


def id_planes(name: str, ids: Plane, bits: int) -> dict[str, Plane]:
    """Ids as 16-bit numbers, and `<name>_high`: (bits, bytes), each further bit as a plane of bits."""
    planes: dict[str, Plane] = {name: ids.astype("<u2")}
    if bits:
        flat = ids.reshape(-1)
        high = [np.packbits((flat >> (16 + bit)) & 1, bitorder="little") for bit in range(bits)]
        planes[f"{name}_high"] = np.stack(high).astype(np.uint8)
    return planes


def ids_of(planes: dict[str, Plane], name: str, begin: int, end: int) -> Plane:
    """Ids begin to end of the planes, flat: uint16, or int32 where there are high bits."""
    low = planes[name].reshape(-1)[begin:end]
    high = planes.get(f"{name}_high")
    if high is None:
        return low
    ids = low.astype(np.int32)
    first = begin // 8
    for bit, plane in enumerate(high):
        ones = np.unpackbits(plane[first : -(-end // 8)], bitorder="little")
        ids |= ones[begin - 8 * first : end - 8 * first].astype(np.int32) << (16 + bit)
    return ids


def wide(ids: Plane) -> Tensor:
    """int64 of narrower ids."""
    return torch.from_numpy(ids.astype(np.int64))


def groups(width: int) -> int:
    """Groups of a vector."""
    return -(-width // GROUP)


def group_codes(vectors: Plane) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Vectors (tokens, width) as int8, and the scale of each group: float16 (tokens, groups)."""
    tokens, width = vectors.shape
    padded = np.zeros((tokens, groups(width) * GROUP), np.float32)
    padded[:, :width] = vectors
    parts = padded.reshape(tokens, -1, GROUP)
    scales = (np.abs(parts).max(-1) / 127).astype(np.float16)
    # A scale that half precision cannot hold stands for a group of nothing.
    divisors = np.where(scales > 0, scales, 1).astype(np.float32)[:, :, None]
    codes = np.rint(np.clip(parts / divisors, -127, 127)) * (scales > 0)[:, :, None]
    return codes.astype(np.int8).reshape(tokens, -1)[:, :width], scales


def vectors_of(codes: Plane, scales: Plane) -> Tensor:
    """The vectors of `group_codes`: float32 (tokens, width)."""
    tokens, width = codes.shape
    vectors = torch.empty(tokens, width)
    numbers, steps = torch.from_numpy(codes), torch.from_numpy(scales)
    whole = width // GROUP * GROUP
    for start in range(0, tokens, _BLOCK // 8):
        part = slice(start, start + _BLOCK // 8)
        step = steps[part].float()
        inside = vectors[part, :whole].view(step.shape[0], whole // GROUP, GROUP)
        inside.copy_(numbers[part, :whole].view(inside.shape))
        inside.mul_(step[:, : whole // GROUP, None])
        if whole < width:
            torch.mul(numbers[part, whole:], step[:, -1:], out=vectors[part, whole:])
    return vectors
