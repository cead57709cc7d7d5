"""The folder of a key: found, or made at once, or in parts of which those that are whole outlive a kill."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from limbeck.data import sieve
from limbeck.data.inputs import Inputs
from limbeck.data.parts import places
from limbeck.data.planes import QUARANTINE, Prepared, counts_of, join, open_prepared
from limbeck.data.workers import Task, Work, spread
from limbeck.errors import Damaged, LimbeckError
from limbeck.files import FULL, canonical, committed, digest, sweep, sweep_abandoned, verify
from limbeck.progress import progress, say

# Enough text for the tokenizer to use every core, little enough to hold many times over.
BLOCK_CHARACTERS = 4_000_000


def made(
    into: str | Path,
    key: dict[str, Any],
    begin: Callable[[], tuple[Work, list[Inputs]]],
    *,
    workers: int = 1,
) -> Prepared:
    """`into`/<digest of the key>, made if it is not there. begin: what is to be done, and the parts of the text."""
    folder = Path(into) / digest(canonical(key))[:32]
    started, fresh = time.monotonic(), 0
    if folder.exists():
        _clear(folder)
    else:
        sweep_abandoned(folder.parent)
        work, parts = begin()
        with _room(folder.parent):
            if len(parts) > 1:
                fresh = _in_parts(folder, key, work, parts, workers)
            else:
                _at_once(folder, key, work, parts[0])
                fresh = counts_of(folder)["tokens"]
    return open_prepared(folder, fresh=fresh, seconds=time.monotonic() - started)


@contextlib.contextmanager
def _room(into: Path) -> Iterator[None]:
    """Says what to do where a disk is full."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in FULL:
            raise
        free = shutil.disk_usage(into).free
        raise LimbeckError(
            f"{into}: {reason.strerror}; {free:,} bytes are free now. Parts that are whole are kept: make room, or name another "
            "place ('prepared' of the source), and give the same command again."
        ) from reason


def _at_once(folder: Path, key: dict[str, Any], work: Work, found: Inputs) -> None:
    try:
        with (
            progress(f"prepare {work.name}", found.size) as bar,
            committed(folder, key) as partial,
            work.opened(BLOCK_CHARACTERS) as fill,
        ):
            fill(partial, found, bar.advance)
            found.check()
            work.check(partial)
    except (OSError, LimbeckError):
        # Another process made the same folder meanwhile: what it holds is the same.
        if not folder.exists():
            raise


def _in_parts(
    folder: Path, key: dict[str, Any], work: Work, parts: list[Inputs], workers: int
) -> int:
    """Makes the parts that are missing beside the folder, and the folder of all; the number of tokens made now."""
    with _alone(folder) as place:
        if folder.exists():
            return 0
        sweep(place)
        tasks = [
            Task(number, part, place / f"{number:05}", {"of": folder.name, "part": where})
            for number, (part, where) in enumerate(zip(parts, places(parts), strict=True))
        ]
        tally = _Tally(tasks)
        missing, before = list[Task](), 0
        for task in tasks:
            if _whole(task):
                tally.done(task)
                before += task.part.size or 0
            else:
                missing.append(task)
        there = len(tasks) - len(missing)
        if there:
            say(f"prepare {work.name}: {there} of {len(tasks)} parts were there already.")
        total = sum(part.size or 0 for part in parts)
        try:
            with progress(f"prepare {work.name}", total, done=before) as bar:
                if min(workers, len(missing)) > 1:
                    spread(work, missing, workers, advance=bar.advance, done=tally.done)
                elif missing:
                    _one_by_one(work, missing, bar.advance, tally.done)
        finally:
            sweep(place)
        with committed(folder, key) as partial:
            join(partial, [task.goal for task in tasks])
            work.check(partial)
        return sum(counts_of(task.goal)["tokens"] for task in missing)


def _one_by_one(
    work: Work, tasks: list[Task], advance: Callable[[int], None], done: Callable[[Task], None]
) -> None:
    with work.opened(BLOCK_CHARACTERS) as fill:
        for task in tasks:
            task.carried_out(fill, advance)
            done(task)


def _whole(task: Task) -> bool:
    """Whether a part is there already; what is there and is not this part, or is damaged, is removed."""
    if not task.goal.exists():
        return False
    with contextlib.suppress(Damaged):
        if canonical(verify(task.goal).about) == canonical(task.about):
            return True
    shutil.rmtree(task.goal)
    return False


class _Tally:
    """Rows that were refused so far: no more in all the parts than in a text that is read at once."""

    def __init__(self, tasks: list[Task]) -> None:
        self._tasks = tasks
        self._refused = dict[int, int]()
        self._next = self._before = 0

    def done(self, task: Task) -> None:
        """Raises DataError at the first row of the text that is one too many."""
        self._refused[task.number] = counts_of(task.goal)["quarantined"]
        while self._next in self._refused:
            refused = self._refused.pop(self._next)
            if self._before + refused > sieve.MOST_QUARANTINED:
                self._stop(self._tasks[self._next].goal / QUARANTINE)
            self._before += refused
            self._next += 1

    def _stop(self, path: Path) -> None:
        with path.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, self._before + 1):
                if number > sieve.MOST_QUARANTINED:
                    row = json.loads(line)
                    raise sieve.too_many(row["file"], row["line"], row["reason"])


def _place(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.parts")


def _locked(folder: Path, place: Path) -> FileLock:
    """The lock of a folder of parts, held. Who held it before may have removed the folder: then it is made again."""
    told = False
    while True:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / ".lock")
        with contextlib.suppress(FileNotFoundError):
            try:
                lock.acquire(timeout=0 if not told else -1)
            except Timeout:
                say(f"{folder} is being prepared by another process; waits for it.")
                told = True
                continue
            return lock


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder of parts, for this process alone; it goes when what it was for is there."""
    place = _place(folder)
    lock = _locked(folder, place)
    try:
        yield place
    finally:
        # While the lock is held: who waited for it looks for the folder first.
        if folder.exists():
            shutil.rmtree(place, ignore_errors=True)
        lock.release()


def _clear(folder: Path) -> None:
    """Removes parts that a process left which was killed when the folder was whole."""
    if _place(folder).exists():
        with _alone(folder):
            pass
