"""A teacher in this process: prompts of about one length are answered together, each by its own seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from limbeck.data.controls import Controls, Written
from limbeck.data.marks import found, marked_messages, plain_messages
from limbeck.data.renderer import Asked as Rendering
from limbeck.data.renderer import Renderer
from limbeck.data.templates import template_of
from limbeck.data.turns import Conversation, Turn, check
from limbeck.errors import DataError, RecipeError
from limbeck.generating import journal as lines
from limbeck.generating.journal import Journal
from limbeck.generating.prompts import Prompt, Wanted
from limbeck.generating.settings import Generation, Local
from limbeck.models.load import load_model, load_tokenizer
from limbeck.models.place import device_of, dtype_of
from limbeck.progress import Progress
from limbeck.sampling.transformers import write

_DATE = "2024-07-26"
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
    device = device_of(given.device)
    dtype = dtype_of(given.dtype, device)
    model = load_model(given.model, revision=given.revision, dtype=dtype).to(device)
    most = getattr(model.config, "max_position_embeddings", None)
    for batch in batches(prompted, given.rows):
        longest = max(len(ids) for _, ids in batch) + asked.sampling.max_tokens
        if most is not None and longest > most:
            raise RecipeError(
                f"sampling.max_tokens: a prompt and its answer may take {longest:,} tokens, and {given.model} reads "
                f"{most:,}. Ask for less, or leave long prompts out."
            )
        answers = write(
            model,
            tokenizer,
            [(one.asked.id, ids) for one, ids in batch],
            asked.sampling.drawing,
            stop=stop,
        )
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


def batches(prompted: Sequence[Prompted], rows: int) -> list[list[Prompted]]:
    """Prompts of about one length together, the longest first: where memory is short, that is told at once."""
    ordered = sorted(prompted, key=lambda one: (-len(one[1]), one[0].asked.id))
    return [ordered[first : first + rows] for first in range(0, len(ordered), rows)]


def _encoded(
    given: Local, tokenizer: Any, wanted: Sequence[Wanted], journal: Journal, bar: Progress
) -> list[Prompted]:
    """Every prompt as token ids; one that the template refuses is a failure with its reason."""
    template = template_of(tokenizer, given.template, {}, _DATE)
    if template is None:
        return [(one, _plainly(tokenizer, one.prompt)) for one in wanted]
    known: dict[Prompt | str, Any] = {}
    prompted = []
    with Renderer(template) as renderer:
        controls = Controls(tokenizer)
        for one in wanted:
            key = f"{one.prompt.system!r} {one.prompt.text}"
            if key not in known:
                try:
                    known[key] = _rendered(one.prompt, renderer, controls)
                except DataError as reason:
                    if renderer.ended:
                        raise
                    known[key] = reason
            if isinstance(known[key], DataError):
                journal.put_now(lines.failed(one.asked.id, str(known[key])))
                bar.advance()
            else:
                prompted.append((one, known[key]))
    return prompted


def _plainly(tokenizer: Any, prompt: Prompt) -> list[int]:
    text = f"{prompt.system}\n\n{prompt.text}" if prompt.system else prompt.text
    ids: list[int] = tokenizer(text, split_special_tokens=True).input_ids
    return ids


def _rendered(prompt: Prompt, renderer: Renderer, controls: Controls) -> list[int]:
    """The prompt through the template. Control strings that somebody wrote into it stay text."""
    check(prompt.text)
    check(prompt.system or "")
    system = (Turn("system", prompt.system),) if prompt.system else ()
    given = Conversation((*system, Turn("user", prompt.text)))
    plain, marked = plain_messages(given), marked_messages(given, controls)
    answers = renderer.render([Rendering(one.messages, [], prompt=True) for one in (plain, marked)])
    for answer in answers:
        if answer.error:
            raise DataError(f"the template refuses it ({answer.error[:300]})")
    here = found(answers[1].text)
    if here.text != answers[0].text or len(here.leaves) != len(marked.leaves):
        raise DataError(
            "the template changes what is said, so its own control strings cannot be told"
        )
    (encoded,) = controls.encode([Written(here.text, tuple(here.written(controls)), ())])
    if isinstance(encoded, DataError):
        raise encoded
    ids: list[int] = encoded.ids.tolist()
    return ids
