"""The journal: a line for every request before it goes and for what came of it, each durable before it counts.

A line carries its own digest. The last one may be torn, by a kill or a full disk, and is cut off; any other that is not
as it was written is refused.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck import files
from limbeck.errors import Damaged, LimbeckError
from limbeck.sampling.answers import Answer
from limbeck.sampling.secret import Secret

Line = dict[str, Any]


@dataclass
class Told:
    """What a journal tells. open: worst cases of requests of which nothing came; spent: of all the others."""

    answers: dict[str, Answer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    open: dict[str, float] = field(default_factory=dict)
    spent: float = 0.0
    torn: int = 0
    size: int = 0

    def take(self, line: Line) -> None:
        """Takes one line in."""
        name, kind = line["id"], line["kind"]
        if kind == "sent":
            self.open[name] = line["cost"]
            return
        if kind == "failed":
            self.failed[name] = line["reason"]
            return
        self.open.pop(name, None)
        self.spent += line["cost"]
        if kind == "answer":
            self.failed.pop(name, None)
            self.answers[name] = Answer(
                line["text"], line["reasoning"], line["finish"], line["in"], line["out"]
            )


def sent(name: str, cost: float) -> Line:
    """A request that is about to go, and its worst case."""
    return {"kind": "sent", "id": name, "cost": cost}


def lost(name: str, cost: float, reason: str) -> Line:
    """A request of which no answer came, and what it has to be taken to have cost."""
    return {"kind": "lost", "id": name, "cost": cost, "reason": reason}


def failed(name: str, reason: str) -> Line:
    """An answer that is given up for this run."""
    return {"kind": "failed", "id": name, "reason": reason}


def answered(name: str, cost: float, answer: Answer) -> Line:
    """An answer."""
    return {
        "kind": "answer",
        "id": name,
        "cost": cost,
        "text": answer.text,
        "reasoning": answer.reasoning,
        "finish": answer.finish,
        "in": answer.tokens_in,
        "out": answer.tokens_out,
    }


def read(path: Path) -> Told:
    """What a journal tells, as far as it is whole; nothing where there is none."""
    told = Told()
    if not path.exists():
        return told
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, 1):
            if not raw.endswith(b"\n"):
                told.torn = len(raw)
                break
            where = f"{path}:{number}"
            try:
                told.take(files.parse_sealed(raw, where))
            except Damaged as reason:
                raise Damaged(
                    f"{reason} Take the line out, and what it told is asked again (and paid again)."
                ) from reason
            except (KeyError, TypeError) as reason:
                raise Damaged(f"{where}: no line of a journal ({reason!r}).") from reason
            told.size += len(raw)
    return told


class Journal:
    """The open end of a journal. Lines of many requests become durable together."""

    def __init__(self, path: Path, told: Told, key: Secret) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.told, self._key = path, told, key
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._handle, told.size)
        os.lseek(self._handle, 0, os.SEEK_END)
        files.sync_folder(path.parent)
        self._waiting: list[bytes] = []
        self._taken = self._written = 0
        self._broken: LimbeckError | None = None
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """Closes the file; every line is durable already."""
        os.close(self._handle)

    async def put(self, line: Line) -> None:
        """Returns once the line is durable, in one piece with the others that wait."""
        line = self._key.hide(line)
        self._waiting.append(files.sealed(line))
        self._taken += 1
        mine = self._taken
        async with self._turn:
            if self._broken is not None:
                raise self._broken
            if self._written < mine:
                pieces, self._waiting = self._waiting, []
                await asyncio.to_thread(self._append, b"".join(pieces))
                self._written += len(pieces)
        self.told.take(line)

    def put_now(self, *lines: Line) -> None:
        """The same for lines that nobody else waits for."""
        hidden = [self._key.hide(line) for line in lines]
        self._append(b"".join(files.sealed(line) for line in hidden))
        for line in hidden:
            self.told.take(line)

    def _append(self, raw: bytes) -> None:
        try:
            left = memoryview(raw)
            while left:
                left = left[os.write(self._handle, left) :]
            os.fsync(self._handle)
        except OSError as reason:
            # Half a line is no line: the next run finds the journal as it was.
            os.ftruncate(self._handle, self.told.size)
            os.lseek(self._handle, self.told.size, os.SEEK_SET)
            self._broken = LimbeckError(
                f"{self.path}: cannot be written ({reason.strerror}). What stands in it is kept; make room, and the "
                "same command goes on."
            )
            raise self._broken from reason
        self.told.size += len(raw)
