"""Batches with what the teacher says of them, on a device one batch before they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from limbeck.types import Batch, Signal, Source, Teacher, Wanted

_Made = tuple[tuple[int, ...], Batch, Signal | None]


@dataclass
class Ahead:
    """Serves micro-batches by their global positions, each with its Signal.

    With a CUDA device the teacher turns to the following micro-batch once the student's work at this one is on its way
    (`proceed`), on a stream of its own: begun before, a device would wait while a cache is read. One that stands on
    another device begins at once. What it hands over are hidden states of the tokens that count, so two fit at a time.
    A teacher on a server (`elsewhere`) is asked at once too, from a thread of its own.
    """

    source: Source
    teacher: Teacher | None
    device: torch.device
    wanted: Wanted = Wanted()  # noqa: RUF009
    early: bool | None = None
    _read: dict[tuple[int, ...], Batch] = field(default_factory=dict, init=False)
    _next: _Made | Future[_Made] | None = field(default=None, init=False)
    _thread: ThreadPoolExecutor | None = field(default=None, init=False)
    _stream: torch.cuda.Stream | None = field(default=None, init=False)
    _then: tuple[int, ...] | None = field(default=None, init=False)
    _free: torch.cuda.Event | None = field(default=None, init=False)

    def batch(self, positions: Sequence[int]) -> Batch:
        """The micro-batch of these positions, on the CPU; kept until it is taken."""
        key = tuple(positions)
        if key not in self._read:
            self._read[key] = self.source.batch(positions)
        return self._read[key]

    def take(
        self, positions: Sequence[int], following: Sequence[int] | None
    ) -> tuple[Batch, Signal | None]:
        """The batch of these positions and its Signal; the teacher may begin with `following`, None at the end."""
        waiting, self._next = self._next, None
        if isinstance(waiting, Future):
            waiting = waiting.result()
        if self.device.type == "cuda":  # what the student has let go of so far is free from here on
            self._free = torch.cuda.current_stream(self.device).record_event()
        if waiting is None or waiting[0] != tuple(positions):
            waiting = self._made(positions)
        self._read.pop(waiting[0], None)
        if self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        away = getattr(self.teacher, "elsewhere", False)
        early = self.device.type == "cuda" if self.early is None else self.early
        self._then = None
        if away and following is not None:
            self._next = self._asked(following)
        elif early and self.teacher is not None and following is not None:
            self._then = tuple(following)
            if self._on_another_device():
                self.proceed()
        return waiting[1], waiting[2]

    def proceed(self) -> None:
        """Begins with the micro-batch that follows the one last taken, where the teacher is to be early."""
        following, self._then = self._then, None
        if following is not None:
            self._next = self._made(following)

    def _on_another_device(self) -> bool:
        place = getattr(getattr(self.teacher, "model", None), "device", None)
        return isinstance(place, torch.device) and place.type == "cuda" and place != self.device

    def rest(self) -> None:
        """Waits until nobody asks the teacher anything, so that somebody else can; what it has said is kept."""
        if isinstance(self._next, Future):
            self._next = self._next.result()
        if self._stream is not None:
            self._stream.synchronize()

    def _asked(self, positions: Sequence[int]) -> Future[_Made]:
        """What a thread makes: it waits for a server while this one computes. Its error comes out where it is taken."""
        assert self.teacher is not None
        self._thread = self._thread or ThreadPoolExecutor(1, "limbeck-teacher")
        here, ask = self.batch(positions).to(self.device), self.teacher.signal
        return self._thread.submit(lambda: (tuple(positions), here, ask(here, self.wanted)))

    def _made(self, positions: Sequence[int]) -> _Made:
        batch = self.batch(positions)
        if self.teacher is None:
            return tuple(positions), batch.to(self.device), None
        if self.device.type != "cuda":
            here = batch.to(self.device)
            return tuple(positions), here, self.teacher.signal(here, self.wanted)
        if self._stream is None:
            self._stream = cast(Any, torch.cuda.Stream)(self.device)
        # Memory that the student has freed may still be read by it: the other stream begins after that.
        assert self._stream is not None
        assert self._free is not None
        self._stream.wait_event(self._free)
        with torch.cuda.stream(self._stream):
            here = batch.to(self.device)
            return tuple(positions), here, self.teacher.signal(here, self.wanted)
