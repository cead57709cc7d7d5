"""A teacher on a server that tells log-probabilities of given tokens: the k likeliest ids of each, and the mass of the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from limbeck.errors import ModelError, RecipeError
from limbeck.progress import say
from limbeck.sampling.scorer import Scorer, Scores
from limbeck.teachers import _proof
from limbeck.types import Batch, Signal, TopK, Wanted

_WHERE = "teacher.remote"
# The least mass of the ids that are not told: what is left of 1 is less than the rounding of what is told.
_LEAST = 1e-9


@dataclass(frozen=True)
class _Prompt:
    """A document of a row as far as something counts in it. ids: with the label of its last token behind.

    places: of the tokens that count, (counted,), the scores of which are at the same places.
    """

    ids: list[int]
    places: list[int]


class Remote:
    """Asks a server document by document, since it knows nothing of packed rows. Proved before the first question."""

    elsewhere = True
    """Another machine works while this one waits."""

    def __init__(self, scorer: Scorer, tokenizer: Any, *, k: int, vocab: int | None = None) -> None:
        self.scorer, self.k = scorer, k
        self.vocab = vocab or len(tokenizer)
        self._tokenizer = tokenizer
        self._proof: _proof.Proof | None = None

    def heed(self, stop: Callable[[], bool]) -> None:
        """Gives up waiting for the server, with Interrupted, once `stop` says so."""
        self.scorer.stop = stop

    def proof(self) -> _proof.Proof:
        """What the server is like; asked once."""
        if self._proof is None:
            self._proof = _proof.proved(self.scorer, self._tokenizer, self.k, _WHERE)
            say(f"{_WHERE} {self.scorer.place.url}: {self._proof}.")
        return self._proof

    def signal(self, batch: Batch, wanted: Wanted) -> Signal:
        """TopK (counted, k), in the order of batch.counted."""
        if wanted.features or wanted.heads:
            raise RecipeError(
                f"{_WHERE}: {', '.join((*wanted.features, *wanted.heads))} is wanted, and a server shows nothing of a "
                "model's inside. Use teacher.live."
            )
        if not wanted.distribution:
            return Signal()
        self.proof()
        prompts = _prompts(batch.on_cpu)
        found = self.scorer.score([prompt.ids for prompt in prompts], self.k)
        ids = [one.ids[prompt.places] for prompt, one in zip(prompts, found, strict=True)]
        logprobs = [one.logprobs[prompt.places] for prompt, one in zip(prompts, found, strict=True)]
        return Signal(topk=self._topk(ids, logprobs).to(batch.input_ids.device))

    def _topk(
        self, ids: Sequence[np.ndarray[Any, Any]], logprobs: Sequence[np.ndarray[Any, Any]]
    ) -> TopK:
        none = np.zeros((0, self.k))
        which = np.concatenate([none.astype(np.int64), *ids])
        told = np.concatenate([none, *logprobs])
        if which.size and int(which.max()) >= self.vocab:
            raise ModelError(
                f"{_WHERE}: the server scores id {int(which.max()):,}; the tokenizer has {self.vocab:,}. Its model has "
                "another tokenizer, or more rows in its head than words, one of which is likely: take a smaller k."
            )
        # Each time: a server that was started anew is another one.
        _proof.check_mass(told, _WHERE)
        with np.errstate(divide="ignore"):
            left = 1 - np.exp(told).sum(-1)
            rest = np.log(np.maximum(left, _LEAST if self.k < self.vocab else 0.0))
        return TopK(
            torch.from_numpy(which),
            torch.from_numpy(told.astype(np.float32)),
            torch.from_numpy(rest.astype(np.float32)),
        )


def _prompts(batch: Batch) -> list[_Prompt]:
    """The documents of each row in which anything counts, in order."""
    found = []
    for ids, labels, documents, weights in zip(
        batch.input_ids, batch.labels, batch.document_ids, batch.weights, strict=True
    ):
        changes = (documents[1:] != documents[:-1]).nonzero().flatten() + 1
        borders = [0, *changes.tolist(), len(ids)]
        for begin, end in itertools.pairwise(borders):
            places = weights[begin:end].nonzero().flatten().tolist()
            if places:
                last = begin + places[-1]
                tokens = [*ids[begin : last + 1].tolist(), int(labels[last])]
                found.append(_Prompt(tokens, places))
    return found


def remote(
    tokenizer: Any,
    *,
    server: Scores,
    k: Annotated[int, Field(gt=0)] = 20,
    vocab: int | None = None,
) -> Remote:
    """The model that `server` serves: {url, model, key, ...}, asked for the `k` likeliest ids of each token (counted, k).

    server: url, such as http://127.0.0.1:8000/v1; model, as the server calls it; key, the name of an environment variable;
    protocol: `vllm` (prompt_logprobs) or `echo`. k: no more than the server tells, 20 in vLLM unless --max-logprobs says
    otherwise. vocab: the ids of the run's tokenizer, which the server's must be: that is proved before anything is asked.
    """
    return Remote(Scorer(server, _WHERE), tokenizer, k=k, vocab=vocab)
