"""How fast models read a prompt and write behind it, and what they keep to do so: turn by turn in one process."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel

from limbeck import pages
from limbeck.errors import ModelError, RecipeError
from limbeck.models import layout, remembering
from limbeck.progress import progress

_WARM = 16


@dataclass
class Speed:
    """One model at one size. Rates are of all rows together, medians over rounds.

    state_bytes: what it keeps of the prompt, keys and values or recurrent states. peak_bytes: what reading and
    writing needs at most beyond what was there before, or None where this system does not tell. ..._seconds and
    ..._cpu_seconds: of each round, by the clock and of this process on all its cores.
    """

    model: str
    length: int
    batch: int
    new_tokens: int
    parameters: int
    state_bytes: int = 0
    peak_bytes: int | None = None
    prefill_tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    decode_tokens_per_second: float = 0.0
    prefill_seconds: list[float] = field(default_factory=list)
    decode_seconds: list[float] = field(default_factory=list)
    prefill_cpu_seconds: list[float] = field(default_factory=list)
    decode_cpu_seconds: list[float] = field(default_factory=list)


@torch.no_grad()
def measure_speed(
    models: Mapping[str, PreTrainedModel],
    *,
    lengths: Sequence[int],
    batch: Sequence[int] = (1,),
    new_tokens: int = 32,
    rounds: int = 3,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The Speed of each model at each length and batch, as dicts, in that order: size by size, model by model.

    In a round each model reads a prompt of random ids and writes `new_tokens` more, each the likeliest, so that what
    else runs on the machine slows all alike. Memory is measured in a round before, which also warms up.
    """
    _check(models, [*lengths, *batch, new_tokens, rounds])
    for model in models.values():
        model.to(device).eval()
    vocab = min(model.config.get_text_config().vocab_size for model in models.values())
    source, found = torch.Generator().manual_seed(seed), []
    sizes = [(length, rows) for length in lengths for rows in batch]
    total = len(sizes) * len(models) * (rounds + 1)
    with progress("measure speed (turns)", total) as bar:
        for length, rows in sizes:
            ids = torch.randint(0, vocab, (rows, length), generator=source).to(device)
            each = {}
            for name, model in models.items():
                each[name] = _kept(name, model, ids, new_tokens)
                bar.advance()
            for _ in range(rounds):
                for name, model in models.items():
                    _turn(model, ids, each[name])
                    bar.advance()
            found += [_summed(one) for one in each.values()]
    return found


def _check(models: Mapping[str, PreTrainedModel], numbers: Sequence[int]) -> None:
    if not models or min(numbers) < 1:
        raise RecipeError(
            f"measure_speed: {len(models)} models, and lengths, batch, new_tokens and rounds of {min(numbers)} or more "
            "found; wanted a model or more, and numbers from 1."
        )


def _kept(name: str, model: PreTrainedModel, ids: Tensor, new_tokens: int) -> Speed:
    """Bytes of the state, and the peak of memory. ids: (batch, time)."""
    _decode(model, *_prefill(model, ids[:, :_WARM]), 1)
    count = sum(parameter.numel() for parameter in model.parameters())
    found = Speed(name, ids.shape[1], ids.shape[0], new_tokens, count)
    with _peak(ids.device) as above:
        first, state = _prefill(model, ids)
        found.state_bytes = state_bytes(state)
        _decode(model, first, state, min(2, new_tokens))
    found.peak_bytes = above[0] if above else None
    return found


def _turn(model: PreTrainedModel, ids: Tensor, found: Speed) -> None:
    """Reads and writes once, and notes how long it took. ids: (batch, time)."""
    gc.collect()
    begun = _now(ids.device)
    first, state = _prefill(model, ids)
    read = _now(ids.device)
    _decode(model, first, state, found.new_tokens)
    done = _now(ids.device)
    found.prefill_seconds.append(read[0] - begun[0])
    found.prefill_cpu_seconds.append(read[1] - begun[1])
    found.decode_seconds.append(done[0] - read[0])
    found.decode_cpu_seconds.append(done[1] - read[1])


def _now(device: torch.device) -> tuple[float, float]:
    """The clock, and the seconds of this process; a device is waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


@torch.no_grad()
def state_of(model: PreTrainedModel) -> Cache:
    """What a model keeps of one token. Raises ModelError where that is no cache of transformers."""
    place = next(model.parameters()).device
    return _prefill(model, torch.zeros(1, 1, dtype=torch.long, device=place))[1]


def _prefill(model: PreTrainedModel, ids: Tensor) -> tuple[Tensor, Cache]:
    """Reads a prompt (batch, time): the likeliest next ids (batch, 1), and the state behind it."""
    empty = remembering.begun(layout.trunk(model))
    given = {} if empty is None else {"past_key_values": empty}
    output = layout.trunk(model)(input_ids=ids, use_cache=True, **given)
    state = getattr(output, "past_key_values", None)
    if not isinstance(state, Cache):
        raise ModelError(
            f"{type(model).__name__}: its past_key_values behind a prompt are {type(state).__name__}; wanted a cache of "
            "transformers to write from. Choose another, or measure it by itself."
        )
    return _likeliest(model, output.last_hidden_state), state


def _likeliest(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """(batch, time, width) to the likeliest ids behind the last place, (batch, 1)."""
    return layout.head(model)(hidden[:, -1]).argmax(-1, keepdim=True)


def _decode(model: PreTrainedModel, first: Tensor, state: Cache, new_tokens: int) -> Tensor:
    """Writes so many tokens after the first one (batch, 1): ids (batch, new_tokens)."""
    inner, written, given = layout.trunk(model), [first], {}
    told, length = layout.takes_positions(inner), state.get_seq_length()
    for place in range(length, length + new_tokens):
        if told:  # Bamba by itself takes every token that it writes for the first of a text
            given["position_ids"] = torch.full_like(first, place)
        output = inner(input_ids=written[-1], past_key_values=state, use_cache=True, **given)
        written.append(_likeliest(model, output.last_hidden_state))
    return torch.cat(written[1:], -1)


def state_bytes(state: Cache) -> int:
    """Bytes of all tensors in a cache of transformers: keys and values, states of convolutions and recurrences."""
    held = (one for layer in state.layers for one in _tensors(vars(layer)))
    return sum(one.numel() * one.element_size() for one in held)


def _tensors(found: Any) -> Iterator[Tensor]:
    """The tensors in what a layer of a cache holds: one by one, or several by number."""
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        for one in found.values():
            yield from _tensors(one)
    elif isinstance(found, list | tuple):
        for one in found:
            yield from _tensors(one)


@contextlib.contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """After the block, holds the bytes that it needed at most beyond those before it; empty where nobody tells."""
    found: list[int] = []
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    pages.trim()
    before = pages.resident() if pages.forget_peak() else -1
    yield found
    if before >= 0:
        found.append(max(0, pages.peak() - before))


def _summed(found: Speed) -> dict[str, Any]:
    """Medians of the rounds."""
    read, wrote = statistics.median(found.prefill_seconds), statistics.median(found.decode_seconds)
    found.first_token_seconds = read
    found.prefill_tokens_per_second = found.batch * found.length / read
    found.decode_tokens_per_second = found.batch * found.new_tokens / wrote
    return asdict(found)
