"""Which chat template a source renders with: the tokenizer's own, one that comes along, or a file."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from limbeck.data.renderer import Template
from limbeck.data.sieve import unusable
from limbeck.errors import DataError
from limbeck.files import canonical

HERE = Path(__file__).parent


def shipped() -> list[str]:
    """The names of the templates that come along."""
    return sorted(path.stem for path in HERE.glob("*.jinja"))


def template_of(
    tokenizer: Any, given: str | None, options: dict[str, Any], date: str
) -> Template | None:
    """The template of a name or a file, or the tokenizer's own; None where it has none."""
    try:
        datetime.datetime.fromisoformat(date)
    except ValueError as reason:
        raise DataError(
            f"date: {date!r} is no date. Wanted: one such as '2024-07-26', in quotes."
        ) from reason
    variables = {**tokenizer.special_tokens_map, **options}
    try:
        canonical(variables)
    except (TypeError, ValueError) as reason:
        raise DataError(
            f"template_options: {reason}. Wanted: what JSON has a word for, which is texts, numbers, lists and mappings."
        ) from reason
    if given is not None:
        text = _file(given)
        return _sound(Template(given, text, text, variables, date))
    own = tokenizer.chat_template
    if not own:
        return None
    name = f"the chat template of {tokenizer.name_or_path or 'the tokenizer'}"
    if isinstance(own, dict):
        default = own.get("default") or next(iter(own.values()))
        with_tools = own.get("tool_use") or default
        return _sound(Template(name, default, with_tools, variables, date))
    return _sound(Template(name, own, own, variables, date))


def _sound(template: Template) -> Template:
    """The template, if it is text."""
    reason = unusable(template.text) or unusable(template.with_tools)
    if reason:
        raise DataError(f"{template.name}: holds {reason}. Give another with 'template'.")
    return template


def none(tokenizer: str) -> DataError:
    """What is said where a conversation needs a template and the tokenizer of this name has none."""
    return DataError(
        f"{tokenizer} has no chat template, and conversations need one. Set 'template' "
        f"to a jinja file, or to one that comes along: {', '.join(shipped())}."
    )


def _file(given: str) -> str:
    path = HERE / f"{given}.jinja" if given in shipped() else Path(given).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise DataError(
            f"template: {given} cannot be read ({reason}). Wanted: a jinja file, or one of {', '.join(shipped())}."
        ) from reason
