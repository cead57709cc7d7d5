"""A teacher in this process: prompts of about one length are answered together, each by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limbeck.data.prompted import Prompter
from limbeck.errors import DataError, RecipeError
from limbeck.generating import journal as lines
from limbeck.generating.journal import Journal
from limbeck.generating.prompts import Wanted
from limbeck.generating.settings import Generation, Local
from limbeck.models.load import load_config, load_model, load_tokenizer
from limbeck.models.place import device_of, dtype_of
from limbeck.progress import Progress
from limbeck.sampling.answers import Answer, Drawing
from limbeck.sampling.transformers import write
from limbeck.sampling.vllm import Engine

Prompted = tuple[Wanted, list[int]]


def answer_all(
    asked: Generation,
    wanted: Sequence[Wanted],
    journal: Journal,
    bar: Progress,
    stop: Callable[[], bool],
) -> str:
    """Answers each in the journal. Why some were left, or ''."""
    given = asked.teacher.local
    assert given
    tokenizer = load_tokenizer(given.model, revision=given.revision)
    prompted = _encoded(given, tokenizer, wanted, journal, bar)
    if not prompted or stop():
        return "stopped" if stop() else ""
    config = load_config(given.model, revision=given.revision).get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    most = given.engine_options.get("max_model_len", most)
    writes = _writer(given, tokenizer, asked.sampling.drawing, stop)
    for batch in batches(prompted, given.rows):
        longest = max(len(ids) for _, ids in batch) + asked.sampling.max_tokens
        if most is not None and longest > most:
            raise RecipeError(
                f"sampling.max_tokens: a prompt and its answer may take {longest:,} tokens, and {given.model} reads "
                f"{most:,}. Ask for less, or leave long prompts out."
            )
        answers = writes([(one.asked.id, ids) for one, ids in batch])
        if answers is None:
            return "stopped"
        journal.put_now(
            *(
                lines.answered(one.asked.id, 0.0, answer)
                for (one, _), answer in zip(batch, answers, strict=True)
            )
        )
        bar.advance(len(batch))
    return ""


def _writer(
    given: Local, tokenizer: Any, drawing: Drawing, stop: Callable[[], bool]
) -> Callable[[Sequence[tuple[str, Sequence[int]]]], list[Answer] | None]:
    """Loads the model; what then answers a batch of (id, token ids), or None where it was asked to stop."""
    if given.engine == "vllm":
        options = given.engine_options
        engine = Engine(given.model, revision=given.revision, dtype=given.dtype, options=options)
        # One batch is never broken off: it is as long as the longest answer in it.
        return lambda prompts: None if stop() else engine.write(prompts, drawing)
    device = device_of(given.device)
    dtype = dtype_of(given.dtype, device)
    model = load_model(given.model, revision=given.revision, dtype=dtype).to(device)
    return lambda prompts: write(model, tokenizer, prompts, drawing, stop=stop)


def batches(prompted: Sequence[Prompted], rows: int) -> list[list[Prompted]]:
    """Prompts of about one length together, the longest first: where memory is short, that is told at once."""
    ordered = sorted(prompted, key=lambda one: (-len(one[1]), one[0].asked.id))
    return [ordered[first : first + rows] for first in range(0, len(ordered), rows)]


def _encoded(
    given: Local, tokenizer: Any, wanted: Sequence[Wanted], journal: Journal, bar: Progress
) -> list[Prompted]:
    """Every prompt as token ids; one that the template refuses is a failure with its reason."""
    prompted = []
    with Prompter(tokenizer, given.template) as prompter:
        for one in wanted:
            ids = prompter.ids(one.prompt.text, one.prompt.system)
            if isinstance(ids, DataError):
                journal.put_now(lines.failed(one.asked.id, str(ids)))
                bar.advance()
            else:
                prompted.append((one, ids))
    return prompted
