"""A model in this process that writes: rows are drawn each by their own seed, whoever shares the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteriaList,
)

from limbeck.sampling.answers import Answer, Asked, Drawing


class _Drawn:
    """Adds Gumbel noise of each row's own generator, so that the likeliest token is a draw from the softmax."""

    def __init__(self, drawing: Drawing, seeds: Sequence[int], device: torch.device) -> None:
        self._temperature = drawing.temperature or 0.0
        self._top_p = drawing.top_p or 1.0
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        """ids: (rows, time). scores: logits (rows, vocab); the same shape is returned, in float32."""
        scores = scores.float() / self._temperature
        if self._top_p < 1:
            scores = _nucleus(scores, self._top_p)
        noise = torch.stack([self._noise(scores[row], row) for row in range(len(scores))])
        return scores + noise

    def _noise(self, row: Tensor, number: int) -> Tensor:
        """Gumbel noise (vocab,)."""
        drawn = torch.rand(row.shape, generator=self._generators[number], device=row.device)
        return -torch.log(-torch.log(drawn.clamp(1e-20, 1 - 1e-7)))


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Logits (rows, vocab) with all but the likeliest tokens of mass top_p at minus infinity."""
    ordered, places = scores.sort(dim=-1, descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(scores).scatter(-1, places, ordered)


class _Said:
    """True for rows (rows,) in which one of these texts stands: looked for only where the newest token can have ended it."""

    def __init__(self, tokenizer: Any, until: Sequence[str], begins: int) -> None:
        self._tokenizer, self._until, self._begins = tokenizer, until, begins
        # A token holds a byte or more.
        self._tail = 1 + max(len(text.encode()) for text in until)

    def __call__(self, ids: Tensor, _scores: Any) -> Tensor:
        """ids: (rows, time), prompts in front."""
        tails = ids[:, max(self._begins, ids.shape[1] - self._tail) :].tolist()
        texts = [self._tokenizer.decode(tail, skip_special_tokens=True) for tail in tails]
        said = [any(end in text for end in self._until) for text in texts]
        return torch.tensor(said, device=ids.device)


@torch.inference_mode()
def write(
    model: PreTrainedModel,
    tokenizer: Any,
    prompts: Sequence[tuple[str, Sequence[int]]],
    drawing: Drawing,
    *,
    stop: Callable[[], bool],
    until: Sequence[str] = (),
) -> list[Answer] | None:
    """Answers to a batch of (id, token ids), padded on the left; None where it was asked to stop before the end.

    until: texts that end an answer and are not a part of it.
    """
    device = next(model.parameters()).device
    longest = max(len(ids) for _, ids in prompts)
    ends = model.generation_config.eos_token_id if model.generation_config else None
    ends = tokenizer.eos_token_id if ends is None else ends
    end = set(ends if isinstance(ends, list) else [ends]) - {None}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end, default=0)
    rows = torch.full((len(prompts), longest), pad, dtype=torch.int64)  # (rows, time)
    there = torch.zeros_like(rows)
    for number, (_, ids) in enumerate(prompts):
        rows[number, longest - len(ids) :] = torch.tensor(ids, dtype=torch.int64)
        there[number, longest - len(ids) :] = 1
    seeds = [Asked(name, "").seed for name, _ in prompts]
    processors = LogitsProcessorList()
    if drawing.temperature:
        processors.append(_Drawn(drawing, seeds, device))
    asked = GenerationConfig(
        max_new_tokens=drawing.max_tokens,
        do_sample=False,
        eos_token_id=sorted(end) or None,
        pad_token_id=pad,
    )
    stopped = StoppingCriteriaList(
        [lambda ids, _scores: torch.full((len(ids),), stop(), device=ids.device)]
    )
    if until:
        stopped.append(_Said(tokenizer, until, longest))
    written = model.generate(
        rows.to(device),
        attention_mask=there.to(device),
        generation_config=asked,
        logits_processor=processors,
        stopping_criteria=stopped,
    )
    if stop():
        return None
    return [
        _until(_answer(tokenizer, ids.tolist(), end, len(given)), until)
        for ids, (_, given) in zip(written[:, longest:], prompts, strict=True)
    ]


def _answer(tokenizer: Any, ids: list[int], end: set[int], read: int) -> Answer:
    """The text up to the first end, which is not a part of it."""
    length = next((place for place, one in enumerate(ids) if one in end), None)
    text = tokenizer.decode(ids[:length], skip_special_tokens=True)
    count = len(ids) if length is None else length + 1
    return Answer(text, "", "length" if length is None else "stop", read, count)


def _until(answer: Answer, until: Sequence[str]) -> Answer:
    """The answer up to the first of these texts."""
    places = [place for end in until if (place := answer.text.find(end)) >= 0]
    if not places:
        return answer
    return replace(answer, text=answer.text[: min(places)], finish="stop")
