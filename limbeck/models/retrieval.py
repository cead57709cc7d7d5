"""Dictionaries that a model is asked about: prompts, their tokens, and how likely it finds each value.

Several questions are asked of one dictionary, and the values of one dictionary are the candidates of each. All of that
is one tree (models/trees.py), so that a dictionary is read once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck.errors import ModelError, RecipeError
from limbeck.models.nouns import NOUNS
from limbeck.models.trees import Ids, Tree, longest_input, scores, suits, tree

# Of two digits all: 4 begins 42, and where digits are tokens it could only be likelier.
VALUES = range(10, 100)
PAIRS = range(2, 51)
ASKED = 5
"""Questions of one dictionary: five cost little more than one, and twenty dictionaries make a hundred."""


@dataclass(frozen=True)
class Dictionary:
    """Words and their values, and the places of the words that are asked for."""

    words: tuple[str, ...]
    values: tuple[int, ...]
    asked: tuple[int, ...]

    def prompt(self, place: int) -> str:
        """The text whose next word is the value of this word."""
        lines = "\n".join(f"{w}:{v}" for w, v in zip(self.words, self.values, strict=True))
        return f"Memorize the following dictionary:\n{lines}\nThe value of the key '{self.words[place]}' is"


@dataclass(frozen=True)
class Request:
    """A candidate behind a prompt: ids of both. number: prompt x pairs + the candidate's place."""

    context: tuple[int, ...]
    candidate: tuple[int, ...]
    number: int

    @property
    def read(self) -> Ids:
        """What a model reads of it, (time,): all but the last token."""
        return np.array([*self.context, *self.candidate][:-1], dtype=np.int64)


@dataclass(frozen=True)
class Part:
    """Some trees as padded rows, and what is asked of them.

    input_ids, position_ids: (batch, time). mask: numbers (batch, 1, time, time), or None where rows are plain texts.
    nodes: (nodes,), where in (batch x time) logits are wanted. which, labels, requests: (scored,): the node, the id
    behind it, and the request that it is of.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor | None
    nodes: Tensor
    which: Tensor
    labels: Tensor
    requests: Tensor


def dictionaries(prompts: int, pairs: int, seed: int) -> list[Dictionary]:
    """As many dictionaries as give so many prompts, the same for the same seed."""
    if pairs not in PAIRS or prompts < 1:
        raise RecipeError(
            f"probe: {prompts:,} prompts of {pairs:,} pairs found; wanted 1 prompt or more, of {PAIRS[0]} to {PAIRS[-1]} pairs."
        )
    source, found = torch.Generator().manual_seed(seed), []
    for first in range(0, prompts, min(ASKED, pairs)):
        words = torch.randperm(len(NOUNS), generator=source)[:pairs].tolist()
        values = torch.randperm(len(VALUES), generator=source)[:pairs].tolist()
        asked = torch.randperm(pairs, generator=source)[: min(ASKED, prompts - first)].tolist()
        names, numbers = (NOUNS[word] for word in words), (VALUES[value] for value in values)
        found.append(Dictionary(tuple(names), tuple(numbers), tuple(asked)))
    return found


def right(asked: Sequence[Dictionary]) -> Tensor:
    """The place of the right candidate for each prompt, int64 (prompts,)."""
    return torch.tensor([place for one in asked for place in one.asked])


def requests(
    tokenizer: PreTrainedTokenizerBase, asked: Sequence[Dictionary]
) -> list[list[Request]]:
    """The requests of each dictionary. Refuses a tokenizer in which the values cannot be told apart."""
    begin = _begin(tokenizer)
    found, prompt = [], 0
    for one in asked:
        mine: list[Request] = []
        for place in one.asked:
            text = one.prompt(place)
            whole = [text, *(f"{text} {value}" for value in one.values)]
            context, *rest = tokenizer(whole, add_special_tokens=False).input_ids
            behind = _behind(tokenizer, context, rest, one.values)
            start = (*begin, *context)
            first = prompt * len(one.values)
            mine += [Request(start, tuple(ids), first + n) for n, ids in enumerate(behind)]
            prompt += 1
        found.append(mine)
    return found


def _begin(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The id that the tokenizer puts before a text, where it puts one."""
    first = tokenizer.bos_token_id
    return (first,) if first is not None and first in tokenizer("").input_ids else ()


def _behind(
    tokenizer: PreTrainedTokenizerBase,
    context: list[int],
    rest: list[list[int]],
    values: Sequence[int],
) -> list[list[int]]:
    """The ids of each value behind the context; no value's may begin another's."""
    behind = [ids[len(context) :] for ids in rest]
    for value, ids, mine in zip(values, rest, behind, strict=True):
        others = [other for other in behind if other is not mine and other[: len(mine)] == mine]
        unknown = tokenizer.unk_token_id in mine
        if ids[: len(context)] != context or not mine or unknown or others:
            raise ModelError(
                f"{type(tokenizer).__name__}: ' {value}' behind a prompt is {tokenizer.convert_ids_to_tokens(mine)}, so its "
                "numbers cannot be scored; wanted tokens of its own that leave those of the prompt as they are. "
                "Choose a model whose tokenizer spells numbers by digits, or as words of their own."
            )
    return behind


def parts(
    model: PreTrainedModel, asked: Sequence[Sequence[Request]], tokens_at_once: int
) -> list[Part]:
    """The requests as rows for this model: a tree a dictionary, or each text alone where trees do not suit it."""
    longest = max(len(one.read) for mine in asked for one in mine)
    if longest > longest_input(model):
        raise ModelError(
            f"{type(model).__name__}: a prompt has {longest:,} tokens, the model reads {longest_input(model):,}. "
            "Ask for fewer pairs."
        )
    trees = suits(model, longest)
    groups = asked if trees else [each for mine in asked for each in _alone(mine)]
    grown = [(group, *tree([one.read for one in group])) for group in groups]
    grown.sort(key=lambda one: len(one[1].tokens))
    found: list[list[tuple[Sequence[Request], Tree, list[Ids]]]] = []
    for one in grown:  # by rising length, so that little is padding
        size = len(one[1].tokens)
        if not found or (len(found[-1]) + 1) * size > tokens_at_once:
            found.append([])
        found[-1].append(one)
    return [_part(model, rows, trees) for rows in found]


def _alone(mine: Sequence[Request]) -> list[list[Request]]:
    """Requests that read the same text, together."""
    found: dict[bytes, list[Request]] = {}
    for one in mine:
        found.setdefault(one.read.tobytes(), []).append(one)
    return list(found.values())


def _part(
    model: PreTrainedModel, rows: list[tuple[Sequence[Request], Tree, list[Ids]]], trees: bool
) -> Part:
    tokens, depths = (
        pad_sequence([torch.from_numpy(one) for one in planes], batch_first=True)
        for planes in zip(*((grown.tokens, grown.depths) for _, grown, _ in rows), strict=True)
    )
    time = tokens.shape[1]
    mask = torch.stack([_mask(grown, time, model.dtype) for _, grown, _ in rows]) if trees else None
    places: list[int] = []
    labels: list[int] = []
    numbers: list[int] = []
    for row, (group, _, paths) in enumerate(rows):
        for one, path in zip(group, paths, strict=True):
            places += (row * time + path[-len(one.candidate) :]).tolist()
            labels += one.candidate
            numbers += [one.number] * len(one.candidate)
    nodes, which = torch.unique(torch.tensor(places), return_inverse=True)
    planes = (nodes, which, torch.tensor(labels), torch.tensor(numbers))
    device = model.device
    return Part(
        tokens.to(device),
        depths.to(device),
        None if mask is None else mask.to(device),
        *(plane.to(device) for plane in planes),
    )


def _mask(grown: Tree, time: int, dtype: torch.dtype) -> Tensor:
    """What is added to scores, so that a node sees those above it: (1, time, time). Padding sees itself."""
    ends = torch.arange(1, time + 1)
    ends[: len(grown.ends)] = torch.from_numpy(grown.ends)
    here = torch.arange(time)
    above = (here <= here.unsqueeze(-1)) & (here.unsqueeze(-1) < ends)  # (time, time)
    mask = torch.zeros(time, time, dtype=dtype)
    return mask.masked_fill_(~above, torch.finfo(dtype).min).unsqueeze(0)


def add(model: PreTrainedModel, part: Part, hidden: Tensor, sums: Tensor) -> None:
    """Adds the log-probabilities of a part's candidates, by the last hidden states (batch, time, width), to sums.

    sums: float64 (prompts x pairs,), changed.
    """
    states = hidden.flatten(0, 1)[part.nodes]
    for here, values, _, _ in scores(model, states, part.which, part.labels):
        sums.index_add_(0, part.requests[here], values.double())
