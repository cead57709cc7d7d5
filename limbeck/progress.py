"""Shows how far a long piece of work is: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 10.0
FORMAT = "LIMBECK_LOG"
"""The environment variable that asks for lines of JSON, here and in processes that this one starts."""


def span(seconds: float) -> str:
    """A length of time for people: '42 s', '3 min 05 s', '2 h 07 min'."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


@dataclass
class Progress:
    """What has been done of a known or unknown total; tells `show` whenever it changes."""

    total: int | None
    show: Callable[[Progress], None]
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    before: int = 0
    note: str = ""
    begun: float = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.clock()

    def advance(self, n: int = 1) -> None:
        """Adds n units of work that are done."""
        self.done += n
        self.show(self)

    @property
    def seconds(self) -> float:
        """Time since the beginning."""
        return self.clock() - self.begun

    def line(self) -> str:
        """'120 of 400 (30 %), 12/s, 10 s, 23 s left', and the note behind it."""
        return f"{self._line()}; {self.note}" if self.note else self._line()

    def _line(self) -> str:
        rate = (self.done - self.before) / self.seconds if self.seconds > 0 else 0.0
        speed = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
        if not self.total:
            return f"{self.done:,}, {speed}, {span(self.seconds)}"
        part = f"{self.done:,} of {self.total:,} ({self.done / self.total:.0%})"
        left = (self.total - self.done) / rate if rate else 0.0
        ending = f", {span(left)} left" if left > 0 else ""
        return f"{part}, {speed}, {span(self.seconds)}{ending}"


@contextlib.contextmanager
def progress(
    description: str, total: int | None = None, *, done: int = 0, stream: TextIO | None = None
) -> Iterator[Progress]:
    """Counts a piece of work on standard error. done: what an earlier process did of it already.

    with progress("tokenize", total=400) as bar: bar.advance(3)
    """
    out = sys.stderr if stream is None else stream
    plain = _objects if in_json() else _bar if out.isatty() else _lines
    shown = _silent if _other_rank() else plain
    with shown(description, total, out) as counter:
        counter.done = counter.before = done
        yield counter


def _other_rank() -> bool:
    """Whether torchrun started this process as another than the first, which speaks for all."""
    return os.environ.get("RANK", "0") != "0"


@contextlib.contextmanager
def _silent(description: str, total: int | None, out: TextIO) -> Iterator[Progress]:  # noqa: ARG001
    yield Progress(total, lambda _: None)


@contextlib.contextmanager
def _bar(description: str, total: int | None, out: TextIO) -> Iterator[Progress]:
    # Imported here, since every door imports this file and --help must answer at once.
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[line]}"))
    with Bars(*columns, console=Console(file=out)) as bars:
        task = bars.add_task(description, total=total, line="")

        def show(counter: Progress) -> None:
            bars.update(task, completed=counter.done, line=counter.line())

        yield Progress(total, show)


@contextlib.contextmanager
def _written(total: int | None, out: TextIO, line: Callable[[Progress], str]) -> Iterator[Progress]:
    """A line now and then, and one at the end."""
    last = 0.0

    def told(counter: Progress) -> None:
        out.write(line(counter))
        out.flush()

    def show(counter: Progress) -> None:
        nonlocal last
        if counter.seconds - last >= SECONDS_BETWEEN_LINES:
            last = counter.seconds
            told(counter)

    counter = Progress(total, show)
    yield counter
    told(counter)


def _objects(
    description: str, total: int | None, out: TextIO
) -> contextlib.AbstractContextManager[Progress]:
    def line(counter: Progress) -> str:
        done = {"done": counter.done, "total": counter.total, "seconds": round(counter.seconds, 3)}
        return as_json("progress", description, done)

    return _written(total, out, line)


def _lines(
    description: str, total: int | None, out: TextIO
) -> contextlib.AbstractContextManager[Progress]:
    return _written(total, out, lambda counter: f"{description}: {counter.line()}\n")


def in_json() -> bool:
    """Whether what is said to people is asked for as JSON, one object a line, for a program that collects it."""
    return os.environ.get(FORMAT) == "json"


def as_json(level: str, text: str, more: dict[str, Any] | None = None) -> str:
    """One line of JSON: time, level (info, note, progress, error), text, and what belongs to it."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    found = {"time": now, "level": level, "text": text, **(more or {})}
    return json.dumps(found, ensure_ascii=False) + "\n"


def say(text: str) -> None:
    """One line on standard error, beside the bars."""
    if _other_rank():
        return
    level, plain = (
        ("note", text.removeprefix("note: ")) if text.startswith("note: ") else ("info", text)
    )
    sys.stderr.write(as_json(level, plain) if in_json() else f"{text}\n")
    sys.stderr.flush()
