"""A model as lm-eval's harness knows it, judged through the tree of all requests at once (limbeck[harness])."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck.errors import LimbeckError
from limbeck.evaluation._likelihood import loglikelihoods

try:
    from lm_eval.models.huggingface import HFLM
except ImportError as reason:
    raise LimbeckError(
        f"lm-eval is needed for its benchmarks ({reason}). Install it: pip install 'limbeck[harness]'."
    ) from reason

Tokens = tuple[tuple[str, str] | None, list[int], list[int]]


class TreeLM(HFLM):  # type: ignore[misc]
    """lm-eval's own model in all that concerns text; only how token likelihoods are computed is ours.

    So `lm_eval.simple_evaluate(model=TreeLM(...))` tokenises, truncates and generates as lm-eval does.
    """

    batch_size_per_gpu: int  # lm-eval's own, by which it generates and rolls

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        longest: int | None = None,
        tokens_at_once: int = 512,
        generated_at_once: int = 1,
    ) -> None:
        super().__init__(
            pretrained=model.eval(),
            tokenizer=copy.deepcopy(tokenizer),  # to which lm-eval gives a token for padding
            backend="causal",
            max_length=longest,
            batch_size=generated_at_once,
        )
        self.tokens_at_once = tokens_at_once

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows that share nothing but are judged together."""
        generated, self.batch_size_per_gpu = self.batch_size_per_gpu, 64
        try:
            found: list[float] = super().loglikelihood_rolling(requests, disable_tqdm)
        finally:
            self.batch_size_per_gpu = generated
        return found

    def _loglikelihood_tokens(
        self,
        requests: list[Tokens],
        disable_tqdm: bool = False,  # noqa: ARG002 (lm-eval's words)
        override_bs: int | None = None,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """lm-eval's way in: ((context, continuation), ids of both) of each request."""
        found = loglikelihoods(
            self.model,
            [(context, continuation) for _, context, continuation in requests],
            longest=self.max_length,
            tokens_at_once=self.tokens_at_once,
        )
        for (text, _, _), answer in zip(requests, found, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answer)
        return found
