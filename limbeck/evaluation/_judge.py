"""One pass over held-out rows: every model, every measure, each logit made once and kept for a chunk only."""

from __future__ import annotations

import math
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


RowSums = dict[str, dict[str, dict[str, list[float]]]]
"""{measure: {model: {name: the sum of each row}}}"""


@dataclass(frozen=True)
class Judged:
    """figures: {measure: {model: {name: value}}}. rows: the sums they were made of, by `finishes`. addresses: which rows those are."""

    figures: dict[str, dict[str, dict[str, float]]]
    rows: RowSums
    finishes: dict[str, Callable[[dict[str, float]], dict[str, float]]]
    addresses: list[str]


@dataclass
class _Seen:
    """What is known of one model so far: sums per measure and row, seconds it computed, tokens it read."""

    sums: dict[str, list[dict[str, Tensor]]]
    seconds: float = 0.0
    tokens: int = 0

    def add(self, measure: str, row: int, values: dict[str, Tensor]) -> None:
        rows = self.sums.setdefault(measure, [])
        rows += [{} for _ in range(row + 1 - len(rows))]
        before = rows[row]
        for name, value in values.items():
            before[name] = before[name] + value if name in before else value

    def rows(self, measure: str, count: int) -> dict[str, list[float]]:
        """The sums of each of `count` rows by name; a row of which nothing counts has zeros."""
        rows = self.sums.get(measure, [])
        rows += [{} for _ in range(count - len(rows))]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return {name: [float(row.get(name, 0.0)) for row in rows] for name in names}


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
) -> Judged:
    """Every measure of every model over the first `rows` of a source; also the measure `speed`.

    The model called 'teacher' is what the others are compared with.
    """
    seen, addresses = {name: _Seen({}) for name in models}, list[str]()
    for model in models.values():
        model.eval()
    for model in models.values():  # the first pass pays for what later ones find ready
        layout.hidden(model, source.batch([0]).to(device))
    with progress("evaluate (rows)", rows) as bar:
        for start in range(0, rows, rows_at_once):
            if stop():
                raise Interrupted("Stopped while evaluating; the same command measures again.")
            size = min(rows_at_once, rows - start)
            batch = source.batch(range(start, start + size))
            addresses += batch.addresses
            _batch(models, seen, batch.to(device), measures, vocab, _parts(batch, start, chunk))
            bar.advance(size)
    return _finished(seen, measures, addresses)


def _parts(batch: Batch, first: int, chunk: int) -> list[tuple[int, slice]]:
    """The tokens that count, `chunk` at most and of one row at a time: (row, where among those that count)."""
    found, begin = list[tuple[int, slice]](), 0
    for row, count in enumerate((batch.weights != 0).sum(1).tolist()):
        end = begin + count
        found += [(first + row, slice(at, min(at + chunk, end))) for at in range(begin, end, chunk)]
        begin = end
    return found


def _batch(
    models: dict[str, PreTrainedModel],
    seen: dict[str, _Seen],
    batch: Batch,
    measures: Sequence[tuple[Measure, dict[str, Any]]],
    vocab: int,
    parts: Sequence[tuple[int, slice]],
) -> None:
    hidden = {}
    for name, model in models.items():
        begun = _now(batch)
        hidden[name] = batch.pick(layout.hidden(model, batch))  # (counted, width)
        seen[name].seconds += _now(batch) - begun
        seen[name].tokens += batch.input_ids.numel()
    rows, label_bytes = batch.rows, batch.pick(batch.label_bytes.flatten())
    for row, part in parts:
        teacher = None
        for name, model in models.items():  # the teacher is the first
            begun = _now(batch)
            logits = layout.head(model, vocab=vocab)(hidden[name][part])  # (chunk, vocab)
            seen[name].seconds += _now(batch) - begun
            teacher = logits if name == "teacher" else teacher
            for measure, options in measures:
                values = measure(logits, teacher, rows[part], label_bytes[part], **options)
                seen[name].add(measure.__name__, row, values)


def _now(batch: Batch) -> float:
    if batch.input_ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def _finished(
    seen: dict[str, _Seen],
    measures: Sequence[tuple[Measure, dict[str, Any]]],
    addresses: list[str],
) -> Judged:
    finishes = {measure.__name__: sys.modules[measure.__module__].finish for measure, _ in measures}
    rows = {
        name: {model: kept.rows(name, len(addresses)) for model, kept in seen.items()}
        for name in finishes
    }
    found: dict[str, dict[str, dict[str, float]]] = {
        name: {
            model: finishes[name]({key: math.fsum(each) for key, each in sums.items()})
            for model, sums in models.items()
        }
        for name, models in rows.items()
    }
    found["speed"] = {
        model: {"tokens_per_second": kept.tokens / max(kept.seconds, 1e-9)}
        for model, kept in seen.items()
    }
    return Judged(found, rows, finishes, addresses)
