"""How likely a model finds continuations: what requests share is computed once, the head only where it is scored.

All requests become one tree of tokens. Its nodes, in the order in which one walks it, are what the model reads: a
token sees the nodes above it and nothing else, so that no row is padded and no cache is copied for a branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from limbeck.errors import DataError
from limbeck.models import layout
from limbeck.models.trees import Ids, Tree, longest_input, scores, suits, tree
from limbeck.progress import progress


@dataclass(frozen=True)
class _Scored:
    """What is asked of the tree, by rising place: the label after a node, for a request. All (scored,)."""

    places: Tensor
    labels: Tensor
    requests: Tensor


@torch.no_grad()
def loglikelihoods(
    model: PreTrainedModel,
    requests: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    longest: int | None = None,
    tokens_at_once: int = 512,
) -> list[tuple[float, bool]]:
    """(sum of the log-probabilities, whether each token is the likeliest) of every continuation after its context.

    requests: ids of a context and of its continuation. What exceeds `longest` (the model's own length) is cut
    from the left of the context. A model that the tree does not suit reads each request by itself.
    """
    model = layout.plain_model(model.eval())
    inputs, labels = _cut(requests, longest or longest_input(model))
    if not suits(model, max((len(one) for one in inputs), default=0)):
        return _one_by_one(model, inputs, labels)
    found, nodes = tree(inputs)
    scored = _scored(nodes, labels, model.device)
    sums = torch.zeros(len(requests), dtype=torch.float64, device=model.device)
    missed = torch.zeros(len(requests), dtype=torch.int64, device=model.device)
    with progress(f"score {len(requests):,} requests (tokens)", len(found.tokens)) as bar:
        for begin, states in _walk(model, found, tokens_at_once):
            edges = torch.tensor([begin, begin + states.shape[0]], device=model.device)
            first, last = torch.searchsorted(scored.places, edges).tolist()
            here = slice(first, last)
            part = _Scored(scored.places[here] - begin, scored.labels[here], scored.requests[here])
            for request, value, likeliest in _judged(model, states, part):
                sums.index_add_(0, request, value.double())
                missed.index_add_(0, request, (~likeliest).long())
            bar.advance(states.shape[0])
    return list(zip(sums.tolist(), (missed == 0).tolist(), strict=True))


def _cut(
    requests: Sequence[tuple[Sequence[int], Sequence[int]]], longest: int
) -> tuple[list[Ids], list[Ids]]:
    """What the model reads of each request, and the labels that end it: int64 (read,), (scored,)."""
    inputs, labels = [], []
    for number, (context, continuation) in enumerate(requests):
        if not len(context) or len(continuation) > longest:
            raise DataError(
                f"request {number}: {len(context)} tokens of context and {len(continuation)} to score; wanted 1 or "
                f"more and at most {longest}. Put a token that begins texts before it, or cut it into windows."
            )
        whole = np.array([*context, *continuation], dtype=np.int64)
        inputs.append(whole[-(longest + 1) :][:-1])
        labels.append(whole[len(context) :])
    return inputs, labels


def _scored(nodes: list[Ids], labels: list[Ids], device: torch.device) -> _Scored:
    """The last nodes of each request, as many as it has labels."""
    none = np.zeros(0, dtype=np.int64)
    last = [path[len(path) - len(one) :] for path, one in zip(nodes, labels, strict=True)]
    places, flat = np.concatenate([none, *last]), np.concatenate([none, *labels])
    requests = np.repeat(np.arange(len(labels)), [len(one) for one in labels])
    order = np.argsort(places, kind="stable")
    return _Scored(*(torch.from_numpy(part[order]).to(device) for part in (places, flat, requests)))


def _walk(model: PreTrainedModel, whole: Tree, size: int) -> Iterator[tuple[int, Tensor]]:
    """Yields (first place, hidden states (some, width)) of the tree, some nodes at a time.

    Keys and values are kept of the nodes only that stand above one that is still to come.
    """
    inner, device = layout.trunk(model), model.device
    tokens, depths, ends = (
        torch.from_numpy(part).to(device) for part in (whole.tokens, whole.depths, whole.ends)
    )
    cache, kept = DynamicCache(), torch.zeros(0, dtype=torch.int64, device=device)
    for begin in range(0, len(whole.tokens), size):
        end = min(begin + size, len(whole.tokens))
        here = torch.arange(begin, end, device=device)
        seen = torch.cat([kept, here])
        above = (seen <= here.unsqueeze(-1)) & (here.unsqueeze(-1) < ends[seen])  # (here, seen)
        mask = torch.zeros(above.shape, dtype=model.dtype, device=device)
        mask.masked_fill_(~above, torch.finfo(model.dtype).min)
        output = inner(
            input_ids=tokens[None, begin:end],
            position_ids=depths[None, begin:end],
            attention_mask=mask[None, None],
            past_key_values=cache,
            use_cache=True,
        )
        yield begin, output.last_hidden_state[0]
        going = (ends[seen] > end).nonzero().squeeze(-1)
        kept = seen[going]
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, going], layer.values[:, :, going]


def _judged(
    model: PreTrainedModel, states: Tensor, scored: _Scored
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields (requests, log-probabilities, whether likeliest), each (scored,), of some rows at a time."""
    nodes, which = torch.unique_consecutive(scored.places, return_inverse=True)
    for here, value, logits, rows in scores(model, states[nodes], which, scored.labels):
        yield scored.requests[here], value, logits.argmax(-1)[rows] == scored.labels[here]


def _one_by_one(
    model: PreTrainedModel, inputs: list[Ids], labels: list[Ids]
) -> list[tuple[float, bool]]:
    """The same, each request by itself and whole."""
    found = []
    with progress("score (requests)", len(inputs)) as bar:
        for ids, wanted in zip(inputs, labels, strict=True):
            given = torch.from_numpy(ids).to(model.device).unsqueeze(0)
            states = layout.trunk(model)(input_ids=given, use_cache=False).last_hidden_state[0]
            logits = layout.head(model)(states[len(ids) - len(wanted) :])  # (scored, vocab)
            target = torch.from_numpy(wanted).to(model.device)
            values = logits.log_softmax(-1).gather(-1, target.unsqueeze(-1))
            found.append((float(values.double().sum()), bool((logits.argmax(-1) == target).all())))
            bar.advance(1)
    return found
