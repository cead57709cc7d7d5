"""One pass over held-out rows: every model, every measure, each logit made once and kept for a chunk only."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from limbeck.errors import Interrupted
from limbeck.models import layout
from limbeck.progress import progress
from limbeck.types import Batch, Source

Measure = Callable[..., dict[str, Tensor]]


@dataclass
class _Seen:
    """What is known of one model so far: sums per measure, seconds it computed, tokens it read."""

    sums: dict[str, dict[str, Tensor]]
    seconds: float = 0.0
    tokens: int = 0

    def add(self, measure: str, values: dict[str, Tensor]) -> None:
        before = self.sums.setdefault(measure, {})
        for name, value in values.items():
            before[name] = before[name] + value if name in before else value


@torch.no_grad()
def judge(
    models: dict[str, PreTrainedModel],
    source: Source,
    measures: Sequence[tuple[Measure, dict[str, Any]]],
    *,
    rows: int,
    vocab: int,
    device: torch.device,
    chunk: int = 256,
    rows_at_once: int = 4,
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, dict[str, dict[str, float]]]:
    """{measure: {model: {name: value}}} over the first `rows` of a source; also the measure `speed`.

    The model called 'teacher' is what the others are compared with.
    """
    seen = {name: _Seen({}) for name in models}
    for model in models.values():
        model.eval()
    for model in models.values():  # the first pass pays for what later ones find ready
        layout.hidden(model, source.batch([0]).to(device))
    with progress("evaluate (rows)", rows) as bar:
        for start in range(0, rows, rows_at_once):
            if stop():
                raise Interrupted("Stopped while evaluating; the same command measures again.")
            size = min(rows_at_once, rows - start)
            _batch(
                models,
                seen,
                source.batch(range(start, start + size)).to(device),
                measures,
                vocab,
                chunk,
            )
            bar.advance(size)
    return _finished(seen, measures)


def _batch(
    models: dict[str, PreTrainedModel],
    seen: dict[str, _Seen],
    batch: Batch,
    measures: Sequence[tuple[Measure, dict[str, Any]]],
    vocab: int,
    chunk: int,
) -> None:
    hidden = {}
    for name, model in models.items():
        begun = _now(batch)
        hidden[name] = batch.pick(layout.hidden(model, batch))  # (counted, width)
        seen[name].seconds += _now(batch) - begun
        seen[name].tokens += batch.input_ids.numel()
    rows, label_bytes = batch.rows, batch.pick(batch.label_bytes.flatten())
    for first in range(0, label_bytes.shape[0], chunk):
        part = slice(first, first + chunk)
        teacher = None
        for name, model in models.items():  # the teacher is the first
            begun = _now(batch)
            logits = layout.head(model, vocab=vocab)(hidden[name][part])  # (chunk, vocab)
            seen[name].seconds += _now(batch) - begun
            teacher = logits if name == "teacher" else teacher
            for measure, options in measures:
                values = measure(logits, teacher, rows[part], label_bytes[part], **options)
                seen[name].add(measure.__name__, values)


def _now(batch: Batch) -> float:
    if batch.input_ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _finished(
    seen: dict[str, _Seen], measures: Sequence[tuple[Measure, dict[str, Any]]]
) -> dict[str, dict[str, dict[str, float]]]:
    found: dict[str, dict[str, dict[str, float]]] = {}
    for measure, _ in measures:
        finish = sys.modules[measure.__module__].finish
        name = measure.__name__
        found[name] = {
            model: finish({key: float(value) for key, value in kept.sums[name].items()})
            for model, kept in seen.items()
        }
    found["speed"] = {
        model: {"tokens_per_second": kept.tokens / max(kept.seconds, 1e-9)}
        for model, kept in seen.items()
    }
    return found
