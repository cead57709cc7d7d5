"""What benchmarks/codec.py keeps: a teacher's distributions, real or random, and a record of each kind of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.cache.kinds import Record
from limbeck.selection.likeliest import likeliest
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold
from limbeck.types import Drawn, HeadMean, Sampled, TopK

K = 64


@dataclass(frozen=True)
class Said:
    """What a teacher says of tokens: hidden (tokens, width) and a head (vocab, width) that makes logits of them."""

    hidden: Tensor
    head: Tensor

    def chunks(self, size: int = 512) -> list[Tensor]:
        """Hidden states of some tokens at a time."""
        return list(self.hidden.split(size))

    def logprobs(self, hidden: Tensor) -> Tensor:
        """(tokens, vocab)."""
        return (hidden @ self.head.T).log_softmax(-1)


def real(model: Path, text: Path, tokens: int) -> Said:
    """Hidden states of a model on a text, in rows of 512 tokens."""
    from limbeck.data.tokenize import encode
    from limbeck.models import layout, load

    loaded = load.load_model(str(model), dtype=torch.float32).eval()
    tokenizer = load.load_tokenizer(str(model))
    ids = encode(tokenizer, [text.read_text()[: 8 * tokens]])[0][0][:tokens]
    rows = torch.from_numpy(ids[: len(ids) // 512 * 512]).view(-1, 512)
    with torch.no_grad():
        trunk = layout.trunk(loaded)
        hidden = [trunk(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows]
    return Said(torch.cat(hidden), layout.head(loaded, vocab=len(tokenizer)).weight.detach())


def random(tokens: int, vocab: int, width: int) -> Said:
    """Random states and head whose distributions have about 3 nats of entropy at 49,152 ids."""
    source = torch.Generator().manual_seed(0)
    head = torch.randn(vocab, width, generator=source)
    return Said(torch.randn(tokens, width, generator=source) * 3.4 / math.sqrt(width), head)


def repeated(record: Any, times: int) -> Any:
    """A record that stands so many times, one after the other."""
    match record:
        case Tensor():
            return record.repeat(times, *[1] * (record.ndim - 1))
        case TopK(ids, logprobs, rest):
            return TopK(*(repeated(part, times) for part in (ids, logprobs, rest)))
        case Sampled():
            counts = repeated(record.starts.diff(), times)
            kept = (repeated(part, times) for part in (record.ids, record.weights))
            return Sampled.of(*kept, counts, repeated(record.entropy, times))
        case Drawn(heads, head_ids, head_logprobs, tails, tail_ids, entropy):
            # Of one draw only: of several the ids would stand draw after draw.
            exact = (repeated(part, times) for part in (heads, head_ids, head_logprobs))
            return Drawn(
                *exact, tails.repeat(1, times), repeated(tail_ids, times), repeated(entropy, times)
            )
        case HeadMean(rows, entropy):
            return HeadMean(repeated(rows, times), repeated(entropy, times))


def selected(said: Said, select: Callable[[Tensor, int], Any]) -> list[Any]:
    """What is kept of each chunk; select takes logits and how many tokens stood before."""
    found, before = [], 0
    for hidden in said.chunks():
        found.append(select(hidden @ said.head.T, before))
        before += len(hidden)
    return found


def records(said: Said) -> dict[str, Record]:
    """A record of each kind, of all tokens."""
    source, tokens = np.random.default_rng(0), len(said.hidden)
    draws = torch.from_numpy(source.random((50, tokens)))

    def top(logits: Tensor, _: int) -> TopK:
        return likeliest(logits, K)

    def drawn(logits: Tensor, before: int) -> Drawn:
        return threshold(logits, draws[:1, before : before + len(logits)])

    def hit(logits: Tensor, before: int) -> Sampled:
        return resampled(logits, draws[:, before : before + len(logits)])

    tops, samples, hits = (selected(said, one) for one in (top, drawn, hit))
    names = ("heads", "head_ids", "head_logprobs", "tails", "tail_ids", "entropy")
    probabilities = [said.logprobs(hidden).exp() for hidden in said.chunks()]
    entropy = torch.cat([one.entropy for one in samples])
    return {
        "topk+rest": TopK(
            *(
                torch.cat([getattr(one, name) for one in tops])
                for name in ("ids", "logprobs", "rest")
            )
        ),
        "sample": Drawn(
            **{name: torch.cat([getattr(one, name) for one in samples], -1) for name in names}
        ),
        "rs": Sampled.of(
            torch.cat([one.ids for one in hits]),
            torch.cat([one.weights for one in hits]),
            torch.cat([one.starts.diff() for one in hits]),
            torch.cat([one.entropy for one in hits]),
        ),
        "hidden8": said.hidden,
        "kl-vector": HeadMean(torch.cat([one @ said.head for one in probabilities]), entropy),
    }
