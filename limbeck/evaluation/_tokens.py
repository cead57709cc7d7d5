"""A paragraph token by token: where a student disagrees with its teacher, and what both would have said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck.models import layout
from limbeck.types import Batch

FIRST = 5
"""So many of the likeliest ids of each model are told."""


@torch.no_grad()
def disagreement(
    models: dict[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    *,
    vocab: int,
    most: int = 256,
) -> list[dict[str, Any]]:
    """The first `most` labels of a batch of one row, as plain data.

    Each has its `text`, whether it is `counted`, `likeliest`, of each model [text, probability] of its FIRST likeliest ids, `said`, the
    probability that each gave to the label, and `kl`, of each model but the teacher KL(teacher || it) in nats.
    """
    count = min(most, batch.labels.shape[1])
    every = {name: _log_probs(model, batch, vocab, count) for name, model in models.items()}
    labels = batch.labels[0, :count]
    pieces = _pieces(tokenizer, batch.input_ids[0, :1].tolist(), labels.tolist())
    teacher = every.get("teacher")
    found: list[dict[str, Any]] = [
        {
            "text": text,
            "counted": bool(weight),
            "likeliest": {},
            "said": {name: float(one[at, labels[at]].exp()) for name, one in every.items()},
            "kl": {},
        }
        for at, (text, weight) in enumerate(
            zip(pieces, batch.weights[0, :count].tolist(), strict=True)
        )
    ]
    for name, one in every.items():
        values, ids = one.topk(FIRST)
        for token, these, chances in zip(found, ids.tolist(), values.exp().tolist(), strict=True):
            told = [
                [tokenizer.decode([i]), round(p, 4)] for i, p in zip(these, chances, strict=True)
            ]
            token["likeliest"][name] = told
        if teacher is not None and name != "teacher":
            apart = (teacher.exp() * (teacher - one)).sum(-1).clamp_min(0)
            for token, nats in zip(found, apart.tolist(), strict=True):
                token["kl"][name] = nats
    return found


def _log_probs(model: PreTrainedModel, batch: Batch, vocab: int, count: int) -> Tensor:
    """Log-probabilities (count, vocab), float32, of the labels of the one row."""
    hidden = layout.hidden(model, batch)
    hidden = hidden.reshape(-1, hidden.shape[-1])[:count]
    return layout.head(model, vocab=vocab)(hidden).float().log_softmax(-1)


def _pieces(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], ids: Sequence[int]
) -> list[str]:
    """The text that each id adds behind those before it; a character of several ids stands at the last of them."""
    whole, found = list(before), list[str]()
    shown = tokenizer.decode(whole)
    for one in ids:
        whole.append(one)
        text: str = tokenizer.decode(whole)
        if text.endswith("\ufffd"):
            found.append("")
            continue
        found.append(text[len(shown) :])
        shown = text
    return found
