"""A teacher whose answers were recorded: reads kept tokens (tokens, k) by the content of each row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from limbeck.cache.format import read_about, tokens_digest
from limbeck.cache.read import CacheReader
from limbeck.errors import CacheMismatch, RecipeError
from limbeck.models.load import fingerprint
from limbeck.types import Batch, Signal, Wanted


class Cached:
    """Serves a cache. The order of rows, the batch size and the number of epochs do not matter to it."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """The kept tokens of each token: ids, logprobs (tokens, k), rest (tokens,)."""
        if wanted.features:
            raise RecipeError(
                f"teacher.cached: features at {', '.join(wanted.features)} are wanted, a cache holds "
                "log-probabilities only. Use teacher.live for objectives that read features."
            )
        if not wanted.distribution:
            return Signal()
        self._check(batch)
        return Signal(topk=self.reader.rows(batch.addresses).to(batch.input_ids.device))

    def _check(self, batch: Batch) -> None:
        """Refuses a batch that holds other tokens than its rows were recorded for."""
        length = batch.input_ids.shape[1]
        if length != self.reader.about.length:
            raise CacheMismatch(
                f"{self.reader.path}: recorded with length {self.reader.about.length}, this batch has "
                f"length {length}. Record again with 'limbeck record', or correct the source's length."
            )
        self.reader.check_holds(batch.addresses)
        rows = zip(batch.addresses, batch.input_ids.cpu(), batch.position_ids.cpu(), strict=True)
        for address, ids, positions in rows:
            found, recorded = tokens_digest(ids, positions), self.reader.tokens(address)
            if found != recorded:
                raise CacheMismatch(
                    f"{self.reader.path}: row {address} was recorded for other tokens than this batch "
                    f"holds: {recorded} recorded, {found} here. "
                    "Record again with 'limbeck record', or correct teacher.cached.path."
                )


def cached(
    *,
    path: str,
    model: str | None = None,
    revision: str | None = None,
    k: int = 64,
    logprobs: Literal["float32", "float16", "float64"] = "float32",
    vocab: int | None = None,
    tokenizer: str | None = None,
) -> Cached:
    """The teacher recorded at `path`, serving (tokens, k). `model` is the teacher it must have been recorded from.

    vocab and tokenizer (a fingerprint) are the run's own; where they are given they are checked too.
    """
    found = read_about(Path(path))
    ids = found.vocab if vocab is None else vocab
    wanted = replace(
        found,
        teacher=found.teacher if model is None else fingerprint(model, revision),
        tokenizer=found.tokenizer if tokenizer is None else tokenizer,
        vocab=ids,
        k=min(k, ids),
        logprobs=logprobs,
    )
    return Cached(CacheReader(path, wanted))
