"""Attention inside documents, looked at: scores and relations of each token with those before it, a part at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from limbeck.objectives._kept import at_least_float32
from limbeck.objectives._relations import again
from limbeck.types import Heads

# Entries of (heads, rows, time) of one part on one side: 4 million are 16 MB in float32.
_ENTRIES = 1 << 22

Document = tuple[Tensor, ...]
"""Tensors (time, heads, width) of one document of one model."""
Compare = Callable[[Document, Document, slice], Tensor]
"""What two models differ by at some rows of a document: (student, teacher, rows) -> (rows,)."""


def by_rows(student: Heads, teacher: Heads, names: tuple[str, ...], compare: Compare) -> Tensor:
    """`compare` over all rows of all documents, computed again in the backward pass: (tokens,)."""
    heads = max(student.queries.shape[1], teacher.queries.shape[1])
    found = []
    for mine, theirs in zip(_documents(student, names), _documents(teacher, names), strict=True):
        time = mine[0].shape[0]
        size = max(1, _ENTRIES // (heads * time))
        for start in range(0, time, size):
            found.append(again(compare, mine, theirs, slice(start, min(start + size, time))))
    return torch.cat(found)


def _documents(heads: Heads, names: tuple[str, ...]) -> Iterator[Document]:
    whole = [at_least_float32(getattr(heads, name)) for name in names]
    for begin, end in itertools.pairwise(heads.edges.tolist()):
        yield tuple(each[begin:end] for each in whole)


def seen(rows: slice, time: int, device: torch.device) -> Tensor:
    """Which tokens each of some rows may look at, itself and those before: bool (rows, time)."""
    places = torch.arange(time, device=device)
    return places[None, :] <= places[rows, None]


def repeated(keys: Tensor, heads: int) -> Tensor:
    """Keys (time, kv heads, width) for as many heads as ask: (time, heads, width)."""
    return keys.repeat_interleave(heads // keys.shape[1], 1)


def regrouped(vectors: Tensor, heads: int) -> Tensor:
    """(time, heads, width) -> (relation heads, time, its width), whatever the heads were."""
    time = vectors.shape[0]
    return vectors.reshape(time, heads, -1).transpose(0, 1)


def log_relations(vectors: Tensor, rows: slice) -> Tensor:
    """How much each of some rows is like each token it sees, as log-probabilities: (heads, rows, time).

    vectors: (heads, time, width). What is not seen has -inf.
    """
    products = vectors[:, rows] @ vectors.transpose(1, 2) / math.sqrt(vectors.shape[-1])
    unseen = ~seen(rows, vectors.shape[1], vectors.device)
    return products.masked_fill(unseen, -torch.inf).log_softmax(-1)
