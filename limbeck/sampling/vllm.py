"""vLLM in this process, where it is installed: it batches by itself, and draws each answer by its own seed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.errors import ModelError, RecipeError
from limbeck.sampling.answers import Answer, Asked, Drawing


class Engine:
    """A model in vLLM's engine. options: what else vllm.LLM is told, such as tensor_parallel_size."""

    def __init__(
        self, model: str, *, revision: str | None, dtype: str, options: Mapping[str, Any]
    ) -> None:
        try:
            self._vllm = importlib.import_module("vllm")
        except ImportError as missing:
            raise RecipeError(
                f"teacher.local.engine: 'vllm' found, which cannot be imported ({missing}). Install vllm (it brings a torch of "
                "its own, so best in an environment of its own), or take engine: transformers."
            ) from missing
        told = {"revision": revision, "tokenizer_revision": revision, "dtype": dtype}
        try:
            self._llm = self._vllm.LLM(model=model, **told, **options)
        except (TypeError, ValueError) as reason:
            raise ModelError(
                f"teacher.local {model}: vLLM does not load it ({reason})."
            ) from reason

    def write(self, prompts: Sequence[tuple[str, Sequence[int]]], drawing: Drawing) -> list[Answer]:
        """Answers to (id, token ids), in order."""
        given = [{"prompt_token_ids": list(ids)} for _, ids in prompts]
        asked = [
            self._vllm.SamplingParams(
                temperature=1.0 if drawing.temperature is None else drawing.temperature,
                top_p=1.0 if drawing.top_p is None else drawing.top_p,
                max_tokens=drawing.max_tokens,
                seed=Asked(name, "").seed,
            )
            for name, _ in prompts
        ]
        found = self._llm.generate(given, asked, use_tqdm=False)
        return [
            _answer(one.outputs[0], len(ids)) for one, (_, ids) in zip(found, prompts, strict=True)
        ]


def _answer(said: Any, read: int) -> Answer:
    return Answer(said.text, "", said.finish_reason or "", read, len(said.token_ids))
