"""Sequences that share their beginnings as one tree of tokens, and which models can read such a tree.

Its nodes, in the order in which one walks it, are what a model reads: a token sees the nodes above it and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.models import attention, layout

Ids = NDArray[np.int64]
# Attention that takes a mask of numbers as it is.
_MASKED = ("sdpa", "eager", attention.NAME)
# Tables of angles that depend on how long a text is: there a token does not stand for itself.
_MOVING = ("dynamic", "longrope")
_LIMITS = ("n_positions", "max_position_embeddings", "n_ctx")
_ROWS = 256
"""Rows of logits (rows, vocab) that exist at a time."""


@dataclass(frozen=True)
class Tree:
    """Tokens that sequences share, once. All (nodes,) in the order of a walk: a node before what is below it.

    depths: how many stand above. ends: the place after the last node below, so that node a stands above b, or is
    it, where a <= b < ends[a].
    """

    tokens: Ids
    depths: Ids
    ends: Ids


def tree(sequences: Sequence[Ids]) -> tuple[Tree, list[Ids]]:
    """The tree of these sequences, and the nodes that each goes through: int64 (its tokens,)."""
    keys = [one.astype(">u4").tobytes() for one in sequences]  # whose order is that of the walk
    order = sorted(range(len(keys)), key=keys.__getitem__)
    none = np.zeros(0, dtype=np.int64)
    tokens, depths, nodes = [none], [none], [none] * len(keys)
    total = sum(len(one) for one in sequences)
    ends = np.zeros(total, dtype=np.int64)
    before = path = none
    count = 0
    for index in order:
        one = sequences[index]
        common = _common(before, one)
        ends[path[common:]] = count
        new = np.arange(count, count + len(one) - common)
        tokens.append(one[common:])
        depths.append(np.arange(common, len(one)))
        path = nodes[index] = np.concatenate([path[:common], new])
        before, count = one, count + len(new)
    ends[path] = count
    return Tree(np.concatenate(tokens), np.concatenate(depths), ends[:count]), nodes


def _common(one: Ids, other: Ids) -> int:
    """Tokens at the start that two sequences share."""
    shorter = min(len(one), len(other))
    apart = one[:shorter] != other[:shorter]
    return int(apart.argmax()) if apart.any() else shorter


def longest_input(model: PreTrainedModel) -> int:
    """Tokens that a model can read at once, by its config."""
    config = layout.plain_model(model).config.get_text_config()
    found = [getattr(config, name, None) for name in _LIMITS]
    return next((int(number) for number in found if number), 2048)


def suits(model: PreTrainedModel, longest: int) -> bool:
    """Whether a model can read a tree: plain causal attention over sequences no longer than `longest`."""
    config = layout.plain_model(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(inner for inner in rope.values() if isinstance(inner, dict))]
    return (
        not layout.leaks(model)
        and config.model_type
        not in layout.HYBRIDS  # a state has one past, and branches have several
        and config._attn_implementation in _MASKED
        and (window is None or longest <= window)
        and not any(kind.get("rope_type") in _MOVING for kind in kinds)
    )


def scores(
    model: PreTrainedModel, states: Tensor, which: Tensor, labels: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The log-probabilities of labels behind nodes, some nodes at a time.

    states: hidden states (nodes, width). which, labels: (scored,), the node and the id behind it. Yields where in
    (scored,) they are, bool; their values (some,); and the logits (rows, vocab) with the row of each (some,).
    """
    head = layout.head(model)
    for first in range(0, states.shape[0], _ROWS):
        logits = head(states[first : first + _ROWS])
        here = (which >= first) & (which < first + _ROWS)
        rows = which[here] - first
        # Not by logsumexp, though it is nearer to the truth: in float32 on CPUs log_softmax over 49,152 ids errs to one
        # side by 7e-6 nats a token, which shows in the fifth digit of a perplexity, and so do all who use it.
        yield here, logits.log_softmax(-1)[rows, labels[here]], logits, rows
