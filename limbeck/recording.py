"""Records a teacher: what it says of every token that counts goes into a cache, shard by shard, and never twice."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist

from limbeck import files, storing
from limbeck.cache import head as beside
from limbeck.cache.format import SHARDS, USES, CacheAbout, tokens_digest
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check
from limbeck.errors import CacheMismatch, Interrupted, LimbeckError, NonFinite
from limbeck.featuring import FeatureKeeper, folder
from limbeck.keeping import Keeper
from limbeck.models.layout import Head
from limbeck.objectives._buffers import rows_at_once
from limbeck.planning import Planned, groups
from limbeck.progress import progress
from limbeck.selection.joined import Record
from limbeck.storing import Store, Task
from limbeck.types import Batch, Signal, Source, Teacher

# Tokens of one forward. More make a CPU no faster, and a device little.
_TOKENS = {"cpu": 2048}
_MANY = 16_384


@dataclass(frozen=True)
class RecordCounts:
    """What one rank did: rows recorded now, rows of its share that were there before, bytes written."""

    recorded: int
    already_there: int
    bytes: int


@dataclass(frozen=True)
class Asked:
    """A micro-batch of a task, on the device, and what the teacher says of it. said: when it will have been said."""

    task: Task
    rows: Planned
    batch: Batch
    signal: Signal
    said: torch.cuda.Event | None


class Swift:
    """A stream of a device whose work goes first, so that few things done there are not behind a teacher's many."""

    def __init__(self, device: torch.device) -> None:
        self.stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self.stream = cast(Any, torch.cuda.Stream)(device, priority=-1)

    @contextlib.contextmanager
    def after(self, event: torch.cuda.Event | None) -> Iterator[None]:
        """What is done inside is done there, after the event."""
        if self.stream is None or event is None:
            yield
            return
        self.stream.wait_event(event)
        with torch.cuda.stream(self.stream):
            yield


@dataclass(frozen=True)
class _Job:
    """All that stays the same while recording."""

    teacher: Teacher
    source: Source
    path: Path
    length: int
    micro_rows: int
    stop: Callable[[], bool]
    device: torch.device
    together: bool
    swift: Swift

    def poll(self) -> None:
        """Stops here if anyone was asked to; all ranks stop at the same place, or the others would wait."""
        if self.most(int(self.stop())):
            raise Interrupted(
                f"{self.path}: recording was asked to stop. Every shard that is there is complete; "
                "the same command goes on from here."
            )

    def most(self, number: int) -> int:
        """The largest of all ranks' numbers."""
        if not self.together:
            return number
        shared = torch.tensor([number], device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared.item())

    def ask(self, task: Task, rows: Planned) -> Asked:
        """What the teacher says of a micro-batch; a device is not waited for."""
        self.poll()
        found = self.source.batch(rows.positions)
        if found.addresses != rows.addresses:
            raise CacheMismatch(
                f"{self.path}: position {rows.positions[0]} held row {rows.addresses[0]} when planned, "
                f"now {found.addresses[0]}. The text changed while it was recorded; begin again."
            )
        batch = replace(found, weights=rows.mask(self.length).to(found.weights.dtype))
        with torch.no_grad():
            here = batch.to(self.device)
            signal = self.teacher.signal(here, task.wanted)
        said = None
        if self.device.type == "cuda":
            said = torch.cuda.current_stream(self.device).record_event()
        return Asked(task, rows, here, signal, said)

    def keep(self, asked: Asked) -> tuple[list[Record], list[str]]:
        """What each cache keeps of a micro-batch, and the digest of each row's tokens."""
        task, rows, here = asked.task, asked.rows, asked.batch
        try:
            with self.swift.after(asked.said):
                kept = [store.keep(asked.signal, here, rows) for store in task.stores]
        except NonFinite as reason:
            first, last = rows.positions[0], rows.positions[-1]
            raise NonFinite(f"{self.path}, rows at {first} to {last}: {reason}") from reason
        return kept, _digests(here.on_cpu)

    def asked(self, mine: Sequence[Task]) -> Iterator[Asked]:
        """Every micro-batch of the tasks. On a device the teacher reads the next one while this one is kept.

        Where asking is stopped or fails, what was asked before is kept.
        """
        waiting: Asked | None = None
        parts = (
            (task, start) for task in mine for start in range(0, len(task.rows), self.micro_rows)
        )
        for task, start in parts:
            try:
                made = self.ask(task, task.rows.part(start, self.micro_rows))
            except (LimbeckError, OSError, RuntimeError):
                if waiting is not None:
                    yield waiting
                raise
            # Dropped before it is handed out: who takes it has the only hold on it.
            out, waiting = (waiting, made) if self.device.type == "cuda" else (made, None)
            del made
            if out is not None:
                yield out
            del out
        if waiting is not None:
            yield waiting

    def shards(self, mine: Sequence[Task], advance: Callable[[int], None]) -> int:
        """Computes and commits shards, and returns their bytes: one is written while the next is computed.

        Only one waits, so that little memory is taken; whatever stops the recording, the one that is whole is
        written. An error in writing it comes out at the next micro-batch.
        """
        written = 0
        waiting: Future[int] | None = None
        records: list[list[Record]] = []
        tokens: list[str] = []
        rows = 0
        with ThreadPoolExecutor(1, "limbeck-shard") as writer:
            for asked in self.asked(mine):
                each, digests = self.keep(asked)
                task, count = asked.task, len(asked.rows)
                del asked  # before the next one is asked for
                records.append(each)
                tokens += digests
                rows += count
                advance(count)
                if waiting is not None and waiting.done():
                    written += waiting.result()
                    waiting = None
                if rows == len(task.rows):
                    written += 0 if waiting is None else waiting.result()
                    waiting = writer.submit(storing.write, task, records, tokens)
                    records, tokens, rows = [], [], 0
            return written + (0 if waiting is None else waiting.result())


def never() -> bool:
    """Nobody asks to stop."""
    return False


def record(
    teacher: Teacher,
    source: Source,
    positions: Sequence[int],
    path: Path,
    about: CacheAbout,
    *,
    features: Sequence[CacheAbout] = (),
    head: Callable[[], Head] | None = None,
    rank: int = 0,
    world: int = 1,
    rows_per_shard: int = 64,
    micro_rows: int | None = None,
    chunk: int | None = None,
    stop: Callable[[], bool] = never,
    device: torch.device | str = "cpu",
) -> RecordCounts:
    """Adds the rows at these positions to the cache at `path`; a row that is there is not computed again.

    Of a row those tokens are recorded that count at any of the positions. A row that is there with fewer of them is
    recorded anew. Groups of rows are fixed by `positions` alone and a group's missing rows become one shard, so that
    a killed and repeated recording leaves the bytes of an undisturbed one. Rank r takes each group g with
    g % world == r. `chunk` tokens have their logits (chunk, vocab) at one time; it and micro_rows, the rows of one forward,
    are chosen by device and length. Ranks of one process group keep pace, because a sharded teacher needs them all in each
    forward. features: what is kept of taps, each in a cache of its own inside this one's folder; rows that are there
    in some of them are asked for what the others lack. head: what gives the teacher's head for kind `hidden8`, the frozen student's for `kl-vector`.
    """
    if source.length != about.length:
        raise CacheMismatch(
            f"{path}: the source has rows of {source.length} tokens, the cache rows of {about.length}."
        )
    where = torch.device(device)
    if micro_rows is None:
        micro_rows = max(1, _TOKENS.get(where.type, _MANY) // about.length)
    about, given = _with_head(path, about, head, first=rank == 0)
    size = min(chunk or rows_at_once(where), micro_rows * about.length)
    keeper = Keeper(about, chunk=size, mean_of=given if about.kind == "kl-vector" else None)
    together = world > 1 and dist.is_available() and dist.is_initialized()
    stores = [Store(path, keeper)]
    stores += [Store(folder(path, tap.tap), FeatureKeeper(tap)) for tap in features]
    job = _Job(teacher, source, path, about.length, micro_rows, stop, where, together, Swift(where))
    for store in stores:
        create_or_check(store.path, store.about)
        for place in (store.path, store.path / SHARDS):
            files.sweep_abandoned(place)
    readers = [CacheReader(store.path, store.about) for store in stores]
    found = list(groups(source, positions, rows_per_shard, job.poll))
    tasks = [storing.tasks(group, stores, readers) for group in found]
    check_space(path, sum(storing.size(task) for group in tasks for task in group))
    mine = [task for group in tasks[rank::world] for task in group]
    rounds = sum(-(-len(task.rows) // micro_rows) for task in mine)
    # Nobody writes before everybody has read what is there: this also waits for all.
    others = job.most(rounds) - rounds
    recorded = sum(len(task.rows) for task in mine)
    with progress("record", recorded) as bar:
        written = job.shards(mine, bar.advance)
        for _ in range(others):
            job.keep(job.ask(Task(found[0], tuple(stores)), found[0].part(0, 1)))
    return RecordCounts(recorded, sum(map(len, found[rank::world])) - recorded, written)


def _with_head(
    path: Path, about: CacheAbout, head: Callable[[], Head] | None, *, first: bool
) -> tuple[CacheAbout, Head | None]:
    """What the cache says of itself once the head is known that it is recorded with, and that head.

    A cache of hidden states keeps the head beside them; where it does already, nobody has to give it.
    """
    if "head" not in USES[about.kind]:
        return about, None
    if about.kind == "hidden8" and about.head and (path / beside.FOLDER).exists():
        return about, None
    if head is None:
        raise CacheMismatch(
            f"{path}: a cache of kind '{about.kind}' is recorded with a head, and none was given."
        )
    found = head()
    known = replace(about, width=found.weight.shape[1], head=beside.head_digest(found))
    if about.kind == "kl-vector" and (found.bias is not None or found.softcap is not None):
        raise CacheMismatch(
            f"{path}: the student's head has a bias or a soft-cap, so its logits are no product with a mean row. "
            "Choose another teacher.cached.kind."
        )
    if about.kind == "hidden8" and first:
        create_or_check(path, known)
        beside.write_head(path, found)
    return known, found


def check_space(path: Path, wanted: int) -> None:
    """Refuses to begin what the disk cannot hold."""
    free = shutil.disk_usage(path).free
    if wanted > free:
        raise LimbeckError(
            f"{path}: recording needs {wanted:,} bytes, the disk has {free:,} free. Free some, choose a "
            "teacher.cached.kind that keeps less ('sample' takes about 50 bytes a token), a smaller feature_share or "
            "feature_width where taps are kept, or another path."
        )


def _digests(batch: Batch) -> list[str]:
    pairs = zip(batch.input_ids, batch.position_ids, strict=True)
    return [tokens_digest(ids, positions) for ids, positions in pairs]
