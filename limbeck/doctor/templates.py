"""Chat templates: whether the one that is trained with writes what the models' own do, shown token by token."""

from __future__ import annotations

from functools import partial
from typing import Any

from limbeck.data.renderer import Asked, Renderer, Template
from limbeck.data.templates import template_of
from limbeck.doctor.case import Case
from limbeck.doctor.findings import Finding, Findings, attempted, note, ok, warning
from limbeck.doctor.tokens import beside
from limbeck.errors import DataError
from limbeck.models import load
from limbeck.recipe import Part

SAMPLE = [
    {"role": "user", "content": "What is kept?"},
    {"role": "assistant", "content": "What is light."},
    {"role": "user", "content": "And what stays?"},
    {"role": "assistant", "content": "What is heavy."},
]
"""Two exchanges that every template can write."""


def templates(case: Case) -> Findings:
    """The template of each source of conversations, beside those that came with the models."""
    for where, part, trained in case.texts:
        if part.name == "chat" and trained:
            for role, model in case.models:
                yield from attempted(where, partial(_compared, case, part, where, role, model.name))


def _compared(case: Case, part: Part, where: str, role: str, name: str) -> list[Finding]:
    used = _template(part, case.base().tokenizer, part.options.get("template"))
    revision = next(model.revision for _, model in case.models if model.name == name)
    tokenizer = load.load_tokenizer(name, revision=revision)
    own = _template(part, tokenizer, None)
    if used is None:  # opening the source tells
        return []
    if own is None:
        return [note(f"{role} {name} has no chat template: {used.name} is new to it.", where)]
    same = (used.text, used.variables) == (own.text, own.variables)
    texts = ["", ""] if same else [_written(template) for template in (used, own)]
    if texts[0] == texts[1]:
        return [ok(f"{used.name} writes what {role} {name} has of its own.", where)]
    if isinstance(texts[0], DataError) or isinstance(texts[1], DataError):
        told = "; ".join(str(text) for text in texts if isinstance(text, DataError))
        return [warning(f"templates cannot be compared on a sample: {told}", where)]
    base = case.base().tokenizer
    ids = [list(base(text, add_special_tokens=False)["input_ids"]) for text in texts]
    return [
        warning(
            f"{used.name} writes a conversation otherwise than the template of {role} {name}"
            + (", which was trained with its own" if role == "teacher" else ""),
            where,
            wanted="the form that the teacher knows: in another it says other things than it would.",
            cure="Leave 'template' out, or give the teacher's, unless that is meant.",
            lines=beside(("here", f"{role}'s own"), (ids[0], ids[1]), (base, base)),
        )
    ]


def _template(part: Part, tokenizer: Any, given: str | None) -> Template | None:
    options = part.options.get("template_options") or {}
    date = part.options.get("date", Template.date)
    return template_of(tokenizer, given, options, date)


def _written(template: Template) -> str | DataError:
    """The sample as a template has it, or why it has none."""
    try:
        with Renderer(template) as renderer:
            (answer,) = renderer.render([Asked(SAMPLE, [])])
    except DataError as reason:
        return reason
    return DataError(f"{template.name}: {answer.error[:200]}") if answer.error else answer.text
