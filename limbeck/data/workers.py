"""Processes that fill the parts of a text, each with one thread; they end with the process that started them.

Not concurrent.futures: what a worker holds from part to part (a tokenizer, a template's process) would have to be a
global of it, and until Python 3.14 nothing public ends the workers of a pool at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol, cast

from limbeck.data.inputs import Inputs
from limbeck.errors import LimbeckError
from limbeck.files import committed

# One thread needs fewer at a time than all cores do: they take less memory and are no slower.
BLOCK_CHARACTERS = 250_000
_TOLD = 1 << 19
"""Bytes read before a worker tells of them."""

Advance = Callable[[int], None]
Fill = Callable[[Path, Inputs, Advance], None]
"""(an empty folder, what to read, whom to tell how many bytes were read): writes a prepared folder's files."""


class Work(Protocol):
    """How a text becomes a prepared folder. Plain data, which goes to other processes, until it is opened."""

    @property
    def name(self) -> str:
        """The text, for people."""
        ...

    def opened(self, characters: int) -> AbstractContextManager[Fill]:
        """Ready to fill one part after the other, so many characters at a time."""
        ...

    def check(self, folder: Path) -> None:
        """Raises DataError where nothing came of the whole text."""
        ...


@dataclass(frozen=True)
class Task:
    """A part of a text, and the folder that it becomes. about: goes into its manifest."""

    number: int
    part: Inputs
    goal: Path
    about: dict[str, Any]

    def carried_out(self, fill: Fill, advance: Advance) -> None:
        """Fills the folder, unless somebody else has meanwhile: what that one holds is the same."""
        meter = _Meter(self.part.size or 0, advance)
        try:
            with committed(self.goal, self.about) as partial:
                fill(partial, self.part, meter.read)
                self.part.check()
        except LimbeckError:
            if not self.goal.exists():
                raise
        meter.end()


class _Meter:
    """Bytes of a part that were read, in the end all of them; of packed files it is told too many on the way."""

    def __init__(self, size: int, advance: Advance) -> None:
        self._left, self._advance, self._untold = size, advance, 0

    def read(self, n: int) -> None:
        self._untold += min(n, self._left - self._untold)
        if self._untold >= _TOLD:
            self._tell()

    def end(self) -> None:
        self._untold = self._left
        self._tell()

    def _tell(self) -> None:
        self._advance(self._untold)
        self._left -= self._untold
        self._untold = 0


@contextlib.contextmanager
def _started(work: Work, number: int) -> Iterator[dict[Connection, BaseProcess]]:
    """So many workers, by the line to each; they are ended, whatever they are doing."""
    # Not forked: locks that another thread of this process holds would be held for ever in the child.
    context = multiprocessing.get_context("spawn")
    found = dict[Connection, BaseProcess]()
    try:
        with _deaf():
            for _ in range(number):
                ours, theirs = context.Pipe()
                process: BaseProcess = context.Process(
                    target=_serve, args=(work, theirs), daemon=True
                )
                process.start()
                theirs.close()
                found[ours] = process
        yield found
    finally:
        for line, process in found.items():
            process.kill()
            process.join()
            line.close()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes started here never hear Ctrl-C, which is for their parent; it hears it afterwards."""
    # By itself it would be started with the first process, and have this one hear again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spread(
    work: Work,
    tasks: Sequence[Task],
    workers: int,
    *,
    advance: Advance,
    done: Callable[[Task], None],
) -> None:
    """Has workers carry out tasks, in order. Raises what the first task raises that cannot be carried out."""
    waiting, failed = deque(tasks), list[tuple[int, Exception]]()
    with _started(work, min(workers, len(tasks))) as lines:
        busy = dict[Connection, Task]()
        for line in lines:
            _hand(line, busy, waiting)
        # Tasks are handed out in order: those before one that failed are done or in work, and may fail as well.
        while any(not failed or task.number < min(failed)[0] for task in busy.values()):
            for ready in wait(list(busy)):
                line = cast(Connection, ready)
                told = _told(line, lines[line], busy[line])
                if isinstance(told, int):
                    advance(told)
                    continue
                task = busy.pop(line)
                if told is None:
                    done(task)
                else:
                    failed.append((task.number, told))
                    waiting.clear()
                _hand(line, busy, waiting)
    if failed:
        raise min(failed, key=lambda one: one[0])[1]


def _hand(line: Connection, busy: dict[Connection, Task], waiting: deque[Task]) -> None:
    if waiting:
        busy[line] = waiting.popleft()
        # One that has just died is found out when it is listened to.
        with contextlib.suppress(ConnectionError):
            line.send(busy[line])


def _told(line: Connection, process: BaseProcess, task: Task) -> int | Exception | None:
    """What a worker says: bytes read, None when its task is done, or why it cannot be."""
    try:
        told: int | Exception | None = line.recv()
    except (EOFError, OSError) as reason:
        process.join()
        code = process.exitcode or 0
        cause = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
        raise LimbeckError(
            f"The process that prepared part {task.number + 1} of the text ended by itself ({cause}); where memory is "
            "short, the system ends processes by SIGKILL. The parts that are whole are kept: give the same command "
            "again, with fewer --workers if memory is short."
        ) from reason
    return told


def _serve(work: Work, line: Connection) -> None:
    """The life of a worker: tasks come in, and what became of them goes out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Read by tokenizers, and by pyarrow and PyTorch when they are imported.
    os.environ.update({"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"})
    with contextlib.suppress(EOFError, ConnectionError), work.opened(BLOCK_CHARACTERS) as fill:
        while True:
            task: Task = line.recv()
            try:
                task.carried_out(fill, line.send)
            except ConnectionError:
                raise
            except (LimbeckError, OSError) as reason:
                line.send(reason)
            else:
                line.send(None)


def _end_with_parent() -> None:
    """A killed parent closes no line by itself while we compute, so we look for its end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
