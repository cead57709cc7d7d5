"""Which heads and layers a model needs to look something up: each is silenced in turn, and what is lost is counted.

Retrieval sits in a few heads (Bick et al., 2025), which a student that replaces attention must keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck.errors import ModelError, NonFinite
from limbeck.models import layout, onward, retrieval, silence
from limbeck.models.retrieval import Part
from limbeck.models.silence import Attention
from limbeck.progress import progress

Silent = tuple[int, int | None]
"""A block and a head of it, or None for all of them."""


@dataclass(frozen=True)
class Lost:
    """What silence costs: of accuracy, and of the right value's mean log-probability; its standard error over prompts."""

    accuracy: float
    logprob: float
    error: float


@dataclass(frozen=True)
class Probed:
    """How well a model looks values up, and what each layer and head that was silenced is worth to it.

    logprob: nats of the right value among its dictionary's values. heads: {(layer, head): ...}, empty where only
    layers were asked for.
    """

    accuracy: float
    logprob: float
    layers: Mapping[int, Lost]
    heads: Mapping[tuple[int, int], Lost]

    def ranked(self) -> list[int]:
        """Layers by what is lost without all of their heads, the most needed first; of equals, the lower first.

        The first ones may stand high because a model breaks without them, whatever it is asked: see `ranked_by_heads`.
        """
        return sorted(self.layers, key=lambda layer: (-self.layers[layer].logprob, layer))

    def ranked_by_heads(self) -> list[int]:
        """Layers by the sum over their heads, the most needed first; empty where heads were not asked for.

        Without a whole first layer SmolLM2-135M breaks, and without any one head of it little is lost; of layer 16, whose
        heads do look things up, both are much.
        """
        sums = {layer: self.of_heads(layer) for layer in self.layers}
        known = {layer: lost.logprob for layer, lost in sums.items() if lost is not None}
        return sorted(known, key=lambda layer: (-known[layer], layer))

    def ranked_heads(self) -> list[tuple[int, int]]:
        """(layer, head), the most needed first; of equals, the lower first."""
        return sorted(self.heads, key=lambda head: (-self.heads[head].logprob, head))

    def of_heads(self, layer: int) -> Lost | None:
        """The sum over a layer's heads, each silenced alone; None where heads were not asked for."""
        mine = [lost for (block, _), lost in self.heads.items() if block == layer]
        if not mine:
            return None
        error = math.sqrt(sum(lost.error**2 for lost in mine))
        return Lost(sum(one.accuracy for one in mine), sum(one.logprob for one in mine), error)


@torch.no_grad()
def probe(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int = 200,
    pairs: int = 10,
    seed: int = 0,
    heads: bool = True,
    tokens_at_once: int = 1024,
) -> Probed:
    """Silences every layer, and every head where heads are wanted. Refuses a model that answers no better than chance."""
    model = layout.plain_model(model.eval())
    found = silence.attentions(model)
    rows, right = _questions(model, tokenizer, (prompts, pairs, seed), tokens_at_once)
    begun = _judged(whole(model, rows, prompts * pairs), right)
    _able(type(model).__name__, begun[0], pairs)
    wanted = [one for each in found for one in _each(each, heads)]
    sums = without(model, rows, wanted, prompts * pairs)
    lost = {one: _lost(begun, _judged(each, right)) for one, each in sums.items()}
    return Probed(
        float(begun[0].mean()),
        float(begun[1].mean()),
        {block: value for (block, head), value in lost.items() if head is None},
        {(block, head): value for (block, head), value in lost.items() if head is not None},
    )


@torch.no_grad()
def retrieves(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompts: int = 200,
    pairs: int = 10,
    seed: int = 0,
    tokens_at_once: int = 1024,
) -> tuple[float, float]:
    """How often a model finds the value of a key, and the mean log-probability of the right one among all, in nats."""
    model = layout.plain_model(model.eval())
    rows, right = _questions(model, tokenizer, (prompts, pairs, seed), tokens_at_once)
    answers, values = _judged(whole(model, rows, prompts * pairs), right)
    return float(answers.mean()), float(values.mean())


def _questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    told: tuple[int, int, int],
    tokens_at_once: int,
) -> tuple[list[Part], Tensor]:
    """What is asked of (prompts, pairs, seed), as rows for this model, and the right places, int64 (prompts,)."""
    asked = retrieval.dictionaries(*told)
    rows = retrieval.parts(model, retrieval.requests(tokenizer, asked), tokens_at_once)
    return rows, retrieval.right(asked)


def _each(attention: Attention, heads: bool) -> list[Silent]:
    """All of a layer, then its heads one by one."""
    return [(attention.block, head) for head in (None, *(range(attention.heads) if heads else ()))]


@torch.no_grad()
def whole(model: PreTrainedModel, rows: Sequence[Part], size: int) -> Tensor:
    """The summed log-probabilities of all candidates, float64 (prompts x pairs,), with nothing silenced."""
    sums = torch.zeros(size, dtype=torch.float64, device=model.device)
    with progress("answer with all heads (parts)", len(rows)) as bar:
        for number, part in enumerate(rows):
            entered = onward.enter(model, part.input_ids, part.position_ids, part.mask)
            if number == 0:
                onward.check(model, entered)
            assert entered.last is not None
            retrieval.add(model, part, entered.last, sums)
            bar.advance()
    return sums


@torch.no_grad()
def without(
    model: PreTrainedModel, rows: Sequence[Part], wanted: Sequence[Silent], size: int
) -> dict[Silent, Tensor]:
    """The same once for each silence, float64 (prompts x pairs,).

    Blocks below the silenced one do what they did: what they gave is kept, and only the others run again.
    """
    known = {one.block: one for one in silence.attentions(model)}
    depth = len(layout.layers(model))
    sums = {
        one: torch.zeros(size, dtype=torch.float64, device=model.device)
        for one in dict.fromkeys(wanted)
    }
    total = len(rows) * sum(depth - block for block, _ in sums)
    with progress(f"silence {len(sums):,} times (blocks)", total) as bar:
        for part in rows:
            entered = onward.enter(model, part.input_ids, part.position_ids, part.mask)
            for (block, head), mine in sums.items():
                one = known[block]
                with silence.silenced(one, range(one.heads) if head is None else [head]):
                    last = onward.onward(model, entered, block)
                retrieval.add(model, part, last, mine)
                bar.advance(depth - block)
    return sums


def _judged(sums: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each prompt's right value is the likeliest, and its log-probability among the values: float64 (prompts,)."""
    values = sums.cpu().view(right.shape[0], -1)  # (prompts, pairs)
    if not bool(values.isfinite().all()):
        raise NonFinite(
            "probe: the model gives a value that is no number for a prompt. Probe in another dtype, such as float32."
        )
    answers = (values.argmax(-1) == right).double()
    return answers, values.log_softmax(-1).gather(-1, right.unsqueeze(-1)).squeeze(-1)


def _lost(begun: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor]) -> Lost:
    apart = begun[1] - now[1]  # (prompts,)
    error = float(apart.std()) / math.sqrt(apart.shape[0]) if apart.shape[0] > 1 else 0.0
    return Lost(float((begun[0] - now[0]).mean()), float(apart.mean()), error)


def luck(prompts: int, pairs: int) -> float:
    """The share of right answers that guessing reaches in two of a hundred probes."""
    chance = 1 / pairs
    return chance + 2 * math.sqrt(chance * (1 - chance) / prompts)


def _able(name: str, answers: Tensor, pairs: int) -> None:
    prompts = answers.shape[0]
    if float(answers.mean()) <= luck(prompts, pairs):
        raise ModelError(
            f"{name} finds {int(answers.sum()):,} of {prompts:,} values among {pairs}; guessing finds {1 / pairs:.0%}, with luck "
            f"{luck(prompts, pairs):.0%}. There is nothing to lose, so no layer can be ranked: ask for fewer pairs or "
            "more prompts, or probe a larger model."
        )
