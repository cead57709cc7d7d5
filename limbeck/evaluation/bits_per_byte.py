"""Bits per byte of held-out text: comparable between models of any tokenizer. Lower is better."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from limbeck.types import Rows

BETTER = {"bits_per_byte": "lower", "nats_per_token": "lower", "accuracy": "higher"}
"""Figures by which students can be told apart, and which way they are better."""


def bits_per_byte(
    student: Tensor, teacher: Tensor | None, rows: Rows, label_bytes: Tensor
) -> dict[str, Tensor]:
    """Sums over a chunk of tokens: nats, bytes and tokens of text, and how often the likeliest was right.

    student: logits (tokens, vocab). teacher: not used. label_bytes: (tokens,); a separator has no bytes and is
    not counted, nor is a token of weight 0. All sums are float64 scalars.
    """
    del teacher
    logprobs = student.float().log_softmax(-1)  # (tokens, vocab)
    nats = -logprobs.gather(-1, rows.labels[:, None]).squeeze(-1).double()  # (tokens,)
    counted = (label_bytes > 0) & (rows.weights > 0)
    right = student.argmax(-1) == rows.labels
    return {
        "nats": torch.where(counted, nats, 0.0).sum(),
        "bytes": torch.where(counted, label_bytes, 0).sum().double(),
        "tokens": counted.sum().double(),
        "right": (right & counted).sum().double(),
    }


def finish(sums: dict[str, float]) -> dict[str, float]:
    """Bits per byte, nats per token and accuracy from the sums of all chunks."""
    tokens, size = max(sums["tokens"], 1.0), max(sums["bytes"], 1.0)
    return {
        "bits_per_byte": sums["nats"] / size / math.log(2),
        "nats_per_token": sums["nats"] / tokens,
        "accuracy": sums["right"] / tokens,
        "tokens": sums["tokens"],
        "bytes": sums["bytes"],
    }
