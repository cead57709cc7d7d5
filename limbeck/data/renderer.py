"""Asks a process beside this one to render a chat template (templating.py), and bears its end."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limbeck.errors import DataError

SECONDS = 10.0
BYTES = 1 << 30


@dataclass(frozen=True)
class Template:
    """A chat template, and what it is given beside the messages. name: for messages to people.

    with_tools: the template of conversations that have tools; date: what it takes for today.
    """

    name: str
    text: str
    with_tools: str
    variables: dict[str, Any]
    date: str = "2024-07-26"


@dataclass(frozen=True)
class Asked:
    """One rendering. prompt: whether what opens the assistant's next turn is written at the end."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    prompt: bool = False


@dataclass(frozen=True)
class Rendered:
    """What came of it. error: '' or why nothing did. blocks: what the template itself says is generated, if it does."""

    text: str = ""
    error: str = ""
    blocks: tuple[tuple[int, int], ...] = ()


class Renderer:
    """A template, ready to be asked; a context, which ends the process beside.

    seconds: the longest that one rendering may take. bytes_: the most memory that it may take.
    """

    def __init__(
        self, template: Template, *, seconds: float = SECONDS, bytes_: int = BYTES
    ) -> None:
        self.template = template
        self._seconds = seconds
        command = [sys.executable, "-m", "limbeck.data.templating"]
        self._process = subprocess.Popen(  # noqa: S603 (our own module, no shell)
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Ctrl-C in a terminal is for us; the other ends when its input does.
            start_new_session=True,
        )
        told = {
            "template": template.text,
            "tool_template": template.with_tools,
            "variables": template.variables,
            "date": template.date,
            "seconds": seconds,
            "bytes": bytes_,
        }
        try:
            (probe,) = self._exchange(told)
            if probe.get("syntax"):
                raise DataError(
                    f"{template.name}: no template that jinja can read: {probe['error']}."
                )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Renderer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def render(self, asked: Sequence[Asked]) -> list[Rendered]:
        """Every one of them, in order. A template that takes too long or too much ends the work."""
        found = self._exchange([asdict(one) for one in asked])
        return [
            Rendered(error=one["error"])
            if "error" in one
            else Rendered(one["text"], blocks=tuple((a, b) for a, b in one["blocks"]))
            for one in found
        ]

    @property
    def ended(self) -> bool:
        """Whether the process is gone: nothing more will be rendered."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._process.kill()
        # A pipe that is broken already cannot be flushed.
        with contextlib.suppress(OSError):
            self._process.communicate()

    def _exchange(self, told: Any) -> list[dict[str, Any]]:
        assert self._process.stdin
        assert self._process.stdout
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise DataError(self._ended())
        found: list[dict[str, Any]] = json.loads(line)
        return found

    def _ended(self) -> str:
        name, status = self.template.name, self._process.wait()
        if status == -signal.SIGALRM:
            return (
                f"{name}: the template was still running after {self._seconds:g} seconds on one conversation; "
                "it was stopped. Give another with 'template'."
            )
        said = (self._process.stderr.read() if self._process.stderr else "").strip()[-400:]
        return f"{name}: the process that renders the template ended with status {status}: {said}"
