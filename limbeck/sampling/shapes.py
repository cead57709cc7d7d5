"""Two shapes in which servers are asked and answer: OpenAI's chat completions, and Anthropic's messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from limbeck.sampling.answers import Answer, Asked, Drawing
from limbeck.sampling.secret import Secret

Body = dict[str, Any]


class Unexpected(Exception):
    """A body without the fields that an answer has."""


@dataclass(frozen=True)
class Shape:
    """How one kind of server is spoken to. set: fields of the body that only `body` may set."""

    address: Callable[[str], str]
    headers: Callable[[Secret], dict[str, str]]
    body: Callable[[Asked, str, Drawing], Body]
    read: Callable[[Body], Answer]
    set: frozenset[str]


def _openai_address(url: str) -> str:
    return f"{url.rstrip('/')}/chat/completions"


def _openai_headers(key: Secret) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.value}"} if key.value else {}


def _drawn(drawing: Drawing) -> Body:
    given = {"temperature": drawing.temperature, "top_p": drawing.top_p}
    return {name: value for name, value in given.items() if value is not None}


def _openai_body(asked: Asked, model: str, drawing: Drawing) -> Body:
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    messages = [*system, {"role": "user", "content": asked.prompt}]
    return {"model": model, "messages": messages, "max_tokens": drawing.max_tokens} | _drawn(
        drawing
    )


def _openai_read(body: Body) -> Answer:
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Unexpected("no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict) or "content" not in message:
        raise Unexpected("no message with content")
    refusal = message.get("refusal")
    usage = _mapping(body.get("usage"))
    return Answer(
        _text(message["content"]),
        _text(message.get("reasoning_content") or message.get("reasoning")),
        "refusal" if refusal else str(choices[0].get("finish_reason") or ""),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _anthropic_address(url: str) -> str:
    url = url.rstrip("/")
    return f"{url}/messages" if url.endswith("/v1") else f"{url}/v1/messages"


def _anthropic_headers(key: Secret) -> dict[str, str]:
    version = {"anthropic-version": "2023-06-01"}
    return version | ({"x-api-key": key.value} if key.value else {})


def _anthropic_body(asked: Asked, model: str, drawing: Drawing) -> Body:
    system = {"system": asked.system} if asked.system else {}
    messages = [{"role": "user", "content": asked.prompt}]
    plain = {"model": model, "messages": messages, "max_tokens": drawing.max_tokens}
    return plain | system | _drawn(drawing)


def _anthropic_read(body: Body) -> Answer:
    content = body.get("content")
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise Unexpected("no content")
    said = [_text(block.get("text")) for block in content if block.get("type") == "text"]
    thought = [_text(block.get("thinking")) for block in content if block.get("type") == "thinking"]
    usage = _mapping(body.get("usage"))
    read = [_count(usage.get("input_tokens"))]
    # What a cache of prompts spared or cost is counted apart, and is input too.
    for name in ("cache_creation_input_tokens", "cache_read_input_tokens"):
        read.append(_count(usage.get(name)) if usage.get(name) is not None else 0)
    known = [count for count in read if count is not None]
    return Answer(
        "".join(said),
        "\n".join(thought),
        str(body.get("stop_reason") or ""),
        sum(known) if len(known) == len(read) else None,
        _count(usage.get("output_tokens")),
    )


def _mapping(given: Any) -> Body:
    return given if isinstance(given, dict) else {}


def _count(given: Any) -> int | None:
    """A number of tokens that can be one; what cannot is as good as none."""
    return given if type(given) is int and 0 <= given < 10**9 else None


def _text(given: Any) -> str:
    """A string, null, or a list of parts with text."""
    if given is None:
        return ""
    if isinstance(given, list):
        parts = [part.get("text", "") for part in given if isinstance(part, dict)]
        given = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(given, str):
        raise Unexpected(f"a {type(given).__name__} for text")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise Unexpected("half of a surrogate pair in the text") from None
    return given


_SET = {"model", "messages", "system", "max_tokens", "temperature", "top_p", "n", "stream"}
SHAPES = {
    "openai": Shape(
        _openai_address, _openai_headers, _openai_body, _openai_read,
        frozenset(_SET - {"system"} | {"max_completion_tokens", "best_of"}),
    ),
    "anthropic": Shape(
        _anthropic_address, _anthropic_headers, _anthropic_body, _anthropic_read, frozenset(_SET)
    ),
}  # fmt: skip
"""{name in a recipe: its shape}"""
