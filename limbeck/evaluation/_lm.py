"""A model as lm-eval's harness knows it, judged through the tree of all requests at once (limbeck[harness])."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limbeck.errors import LimbeckError
from limbeck.evaluation._likelihood import loglikelihoods
from limbeck.progress import progress
from limbeck.sampling.answers import Drawing
from limbeck.sampling.transformers import write

try:
    from lm_eval.models.huggingface import HFLM
except ImportError as reason:
    raise LimbeckError(
        f"lm-eval is needed for its benchmarks ({reason}). Install it: pip install 'limbeck[harness]'."
    ) from reason

# What lm-eval asks of an answer that is drawn; with more than that, it draws it itself.
_DRAWN = {"do_sample", "temperature", "max_gen_toks", "until"}
_KNOWN = _DRAWN | {"top_p"}
_ROWS = 16

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
        seed: int = 0,
    ) -> None:
        super().__init__(
            pretrained=model.eval(),
            tokenizer=copy.deepcopy(tokenizer),  # to which lm-eval gives a token for padding
            backend="causal",
            max_length=longest,
            batch_size=generated_at_once,
        )
        self.tokens_at_once = tokens_at_once
        self.seed = seed

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedily as lm-eval does it; what is drawn, is drawn each by a seed of its own."""
        kinds = {json.dumps(request.args[1], sort_keys=True) for request in requests}
        told = json.loads(kinds.pop()) if len(kinds) == 1 else {}
        if told.get("do_sample") and _DRAWN <= told.keys() <= _KNOWN:
            return self._drawn(requests, told)
        found: list[str] = super().generate_until(requests, disable_tqdm)
        return found

    def _drawn(self, requests: list[Any], told: dict[str, Any]) -> list[str]:
        """One answer a request. The same request several times is several draws."""
        drawn, prompts = Counter[tuple[str, int]](), list[tuple[str, list[int]]]()
        room = self.max_length - told["max_gen_toks"]
        assert room > 0, (
            f"{told['max_gen_toks']} tokens are to be written, and it holds {self.max_length}"
        )
        for request in requests:
            question = (request.task_name, request.doc_id)
            name = f"{request.task_name}/{request.doc_id}/{drawn[question]}/{self.seed}"
            drawn[question] += 1
            prompts.append((name, self.tok_encode(request.args[0], left_truncate_len=room)))
        drawing = Drawing(told["temperature"], told.get("top_p"), told["max_gen_toks"])
        found: dict[str, str] = {}
        # Of about one length together, the longest first: where memory is short, that is told at once.
        ordered = sorted(prompts, key=lambda one: -len(one[1]))
        with progress("answers", len(ordered)) as bar:
            for first in range(0, len(ordered), _ROWS):
                batch = ordered[first : first + _ROWS]
                answers = write(
                    self.model,
                    self.tokenizer,
                    batch,
                    drawing,
                    stop=lambda: False,
                    until=told["until"],
                )
                assert answers is not None
                found |= {name: one.text for (name, _), one in zip(batch, answers, strict=True)}
                bar.advance(len(batch))
        return [found[name] for name, _ in prompts]

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
