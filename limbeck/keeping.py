"""What is kept of a teacher's signal, kind by kind: chunks of tokens go through the head and into a selection."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.cache.format import CacheAbout
from limbeck.errors import ModelError
from limbeck.models.layout import Head
from limbeck.objectives._buffers import product_into
from limbeck.selection._groups import GROUP
from limbeck.selection.joined import Record, joined
from limbeck.selection.likeliest import likeliest
from limbeck.selection.mean import head_mean
from limbeck.selection.resampled import resampled
from limbeck.selection.threshold import threshold
from limbeck.selection.uniforms import uniforms
from limbeck.types import Batch, Drawn, HeadMean, Signal, TopK


class Keeper:
    """Makes the records of a cache. `chunk` tokens have their logits (chunk, vocab) at one time, in one buffer.

    mean_of: the frozen student head whose mean rows a cache of kind `kl-vector` keeps.
    """

    def __init__(self, about: CacheAbout, *, chunk: int, mean_of: Head | None = None) -> None:
        self.about = about
        self.chunk = chunk
        self.mean_of = mean_of
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def keep(self, signal: Signal, batch: Batch) -> Record:
        """What is kept of the tokens of a batch that count, in order, on the CPU."""
        if self.about.kind == "hidden8":
            if signal.hidden is None:
                raise ModelError(
                    "teacher.cached.kind 'hidden8': the teacher gives no hidden states. Record a live teacher."
                )
            return signal.hidden.cpu()
        count = int(batch.counted.shape[0])
        drawn = self._uniforms(batch)
        starts = range(0, max(count, 1), self.chunk)  # also of no tokens a record is made
        parts = [slice(start, min(start + self.chunk, count)) for start in starts]
        return joined([self._part(signal, part, drawn[:, part]) for part in parts])

    def _uniforms(self, batch: Batch) -> Tensor:
        """The uniform numbers of the tokens that count (draws, counted)."""
        draws = {"sample": self.about.draws, "rs": self.about.samples}.get(self.about.kind, 0)
        found = uniforms(batch.addresses, batch.input_ids.shape[1], draws)
        return found[:, batch.on_cpu.counted]

    def _part(self, signal: Signal, part: slice, drawn: Tensor) -> Record:
        """What is kept of a chunk of tokens."""
        if self.about.kind == "topk+rest" and signal.topk is not None:
            return self._again(signal.topk[part])
        logits = self._logits(signal, part)
        if self.about.kind == "sample":
            return _on_cpu(threshold(logits, drawn, threshold=self.about.threshold))
        if self.about.kind == "rs":
            return resampled(logits, drawn)
        if self.about.kind == "topk+rest":
            return self._again(likeliest(logits, self.about.k))
        if self.mean_of is None:
            raise ModelError(
                "teacher.cached.kind 'kl-vector': the frozen student head that it is for is not known."
            )
        weight = self.mean_of.weight.detach()[: self.mean_of.vocab].to(logits.device)
        mean = head_mean(logits, weight)
        return HeadMean(mean.rows.cpu(), mean.entropy.cpu())

    def _again(self, top: TopK) -> TopK:
        """Kept tokens on the CPU and in the dtype of the cache."""
        if top.rest is None:
            raise ModelError("the teacher keeps some ids and does not tell the mass of the others.")
        floats = self.about.floats
        return TopK(top.ids.cpu(), top.logprobs.to("cpu", floats), top.rest.to("cpu", floats))

    def _logits(self, signal: Signal, part: slice) -> Tensor:
        """Logits (tokens, vocab) of a chunk of tokens; ids that only fill up to whole groups are at -inf."""
        head, hidden = signal.head, signal.hidden
        plain = isinstance(head, Head) and head.scale == 1 and head.softcap is None
        if signal.logits is None and hidden is not None and isinstance(head, Head) and plain:
            self._check(head.vocab)
            return self._product(hidden[part], head)
        found = signal.distribution(part)
        if not isinstance(found, Tensor):
            raise ModelError(
                f"the teacher gives {'no distribution' if found is None else type(found).__name__}; a cache of "
                f"kind '{self.about.kind}' is recorded from one that gives logits."
            )
        self._check(found.shape[-1])
        return found

    def _check(self, vocab: int) -> None:
        if vocab != self.about.vocab:
            raise ModelError(
                f"the teacher has logits for {vocab:,} ids, the tokenizer has "
                f"{self.about.vocab:,}. Give the teacher the number of ids that count."
            )

    def _product(self, hidden: Tensor, head: Head) -> Tensor:
        """Logits in the buffer, in the head's own dtype and with a row's own zero: the selection sees differences only."""
        rows = head.weight.shape[0]
        if self._buffer is None:
            width = -(-rows // GROUP) * GROUP
            self._buffer = hidden.new_empty(self.chunk, width)
        whole = self._buffer[: hidden.shape[0]]
        bias = None if head.bias is None else head.bias.detach()
        product_into(whole[:, :rows], hidden, head.weight.detach(), bias, centred=True)
        whole[:, head.vocab :] = -torch.inf
        return whole


def _on_cpu(drawn: Drawn) -> Drawn:
    return Drawn(
        drawn.heads.cpu(),
        drawn.head_ids.cpu(),
        drawn.head_logprobs.cpu(),
        drawn.tails.cpu(),
        drawn.tail_ids.cpu(),
        drawn.entropy.cpu(),
    )
