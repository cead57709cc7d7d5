"""Renders chat templates in a process of its own: python -m limbeck.data.templating, which renderer.py talks to.

A template is foreign code in a sandbox that bounds neither time nor memory. Here the kernel bounds both: an alarm ends
the process where one rendering takes too long, and its address space is limited.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from transformers.utils import chat_template_utils

# A text longer than this is no conversation; it would be held several times over.
MOST_CHARACTERS = 30_000_000
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# What a template can raise by what it does with its values.
_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError),
    # The last two where jinja makes of it what Python does not take.
    *(RecursionError, MemoryError, RuntimeError, SyntaxError, AssertionError),
)


def serve() -> None:
    """Answers each line of JSON on standard input with one on standard output, until the input ends."""
    told = json.loads(sys.stdin.readline())
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    _fix_date(told["date"])
    _limit_memory(told["bytes"])
    probe = {"messages": [{"role": "user", "content": "a"}], "tools": [], "prompt": False}
    _answer(told, [probe])
    for line in sys.stdin:
        _answer(told, json.loads(line))


def _answer(told: dict[str, Any], asked: list[dict[str, Any]]) -> None:
    answers = []
    for one in asked:
        signal.setitimer(signal.ITIMER_REAL, told["seconds"])
        answers.append(_rendered(told, one))
        signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.write(json.dumps(answers) + "\n")
    sys.stdout.flush()


def _rendered(told: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    template = told["tool_template"] if asked["tools"] else told["template"]
    marked = bool(_GENERATION.search(template))
    try:
        texts, blocks = chat_template_utils.render_jinja_template(
            conversations=[asked["messages"]],
            tools=asked["tools"] or None,
            chat_template=template,
            return_assistant_tokens_mask=marked,
            add_generation_prompt=asked["prompt"],
            **told["variables"],
        )
    except _ERRORS as reason:
        syntax = isinstance(reason, jinja2.TemplateSyntaxError | SyntaxError | AssertionError)
        return {"error": str(reason)[:1000] or type(reason).__name__, "syntax": syntax}
    if len(texts[0]) > MOST_CHARACTERS:
        return {"error": f"it wrote {len(texts[0]):,} characters, more than {MOST_CHARACTERS:,}"}
    return {"text": texts[0], "blocks": blocks[0] if marked else []}


def _fix_date(given: str) -> None:
    """Templates that write today's date get this one, or the same row would be other tokens tomorrow."""

    class Fixed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Fixed:  # noqa: ARG003 - the signature of datetime
            return cls.fromisoformat(given)

    chat_template_utils.datetime = Fixed


def _limit_memory(more: int) -> None:
    """So many bytes beside what the process has now; where the system cannot tell or limit that, none."""
    with contextlib.suppress(OSError, ValueError):
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))


if __name__ == "__main__":
    serve()
