"""Records a teacher: what it says of every token that counts goes into a cache, shard by shard, and never twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist

from limbeck import files
from limbeck.cache import head as beside
from limbeck.cache.format import SHARDS, USES, CacheAbout, tokens_digest
from limbeck.cache.kinds import estimate_row
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, shard_folder, write_shard
from limbeck.errors import CacheMismatch, Damaged, Interrupted, LimbeckError, NonFinite
from limbeck.keeping import Keeper
from limbeck.models.layout import Head
from limbeck.planning import Planned, groups, missing
from limbeck.progress import progress
from limbeck.selection.joined import Record, joined
from limbeck.types import Batch, Source, Teacher, Wanted

# Bytes that a row needs besides its planes: its part of the manifest and of disk blocks.
_BESIDES = 512
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
class _Job:
    """All that stays the same while recording."""

    teacher: Teacher
    source: Source
    path: Path
    about: CacheAbout
    keeper: Keeper
    micro_rows: int
    stop: Callable[[], bool]
    device: torch.device
    together: bool

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

    def micro(self, rows: Planned) -> tuple[Record, list[str]]:
        """What is kept of a micro-batch's tokens that count, and the digest of each row's tokens."""
        self.poll()
        found = self.source.batch(rows.positions)
        if found.addresses != rows.addresses:
            raise CacheMismatch(
                f"{self.path}: position {rows.positions[0]} held row {rows.addresses[0]} when planned, "
                f"now {found.addresses[0]}. The text changed while it was recorded; begin again."
            )
        batch = replace(found, weights=rows.mask(self.about.length).to(found.weights.dtype))
        with torch.no_grad():
            here = batch.to(self.device)
            signal = self.teacher.signal(here, Wanted())
        try:
            return self.keeper.keep(signal, here), _digests(batch)
        except NonFinite as reason:
            first, last = rows.positions[0], rows.positions[-1]
            raise NonFinite(f"{self.path}, rows at {first} to {last}: {reason}") from reason

    def write(self, rows: Planned, records: Sequence[Record], tokens: Sequence[str]) -> int:
        """Commits one shard and returns its bytes; 0 where another recorder was faster with the same shard."""
        recorded = rows.mask(self.about.length)
        try:
            folder = write_shard(
                self.path,
                rows.addresses,
                joined(records),
                self.about,
                tokens=tokens,
                recorded=recorded,
            )
        except LimbeckError:
            if _stands(shard_folder(self.path, rows.addresses, recorded), self.about):
                return 0
            raise
        return sum(path.stat().st_size for path in folder.iterdir())

    def shards(self, mine: Sequence[Planned], advance: Callable[[int], None]) -> int:
        """Computes and commits shards, and returns their bytes: one is written while the next is computed.

        Only one waits, so that little memory is taken; whatever stops the recording, the one that is whole is
        written. An error in writing it comes out at the next micro-batch.
        """
        written = 0
        waiting: Future[int] | None = None
        with ThreadPoolExecutor(1, "limbeck-shard") as writer:
            for rows in mine:
                records: list[Record] = []
                tokens: list[str] = []
                for start in range(0, len(rows), self.micro_rows):
                    part = rows.part(start, self.micro_rows)
                    record, digests = self.micro(part)
                    records.append(record)
                    tokens += digests
                    advance(len(part))
                    if waiting is not None and waiting.done():
                        written += waiting.result()
                        waiting = None
                written += 0 if waiting is None else waiting.result()
                waiting = writer.submit(self.write, rows, records, tokens)
            return written + (0 if waiting is None else waiting.result())


def _stands(folder: Path, about: CacheAbout) -> bool:
    """Whether a whole shard of this cache stands there."""
    try:
        return files.verify(folder).about == {"cache": about.identity}
    except Damaged:
        return False


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
    head: Callable[[], Head] | None = None,
    rank: int = 0,
    world: int = 1,
    rows_per_shard: int = 64,
    micro_rows: int | None = None,
    chunk: int = 256,
    stop: Callable[[], bool] = never,
    device: torch.device | str = "cpu",
) -> RecordCounts:
    """Adds the rows at these positions to the cache at `path`; a row that is there is not computed again.

    Of a row those tokens are recorded that count at any of the positions. A row that is there with fewer of them is
    recorded anew. Groups of rows are fixed by `positions` alone and a group's missing rows become one shard, so that
    a killed and repeated recording leaves the bytes of an undisturbed one. Rank r takes each group g with
    g % world == r. `chunk` tokens have their logits (chunk, vocab) at one time; micro_rows, the rows of one forward,
    is chosen by their length. Ranks of one process group keep pace, because a sharded teacher needs them all in each
    forward. head: what gives the teacher's head for kind `hidden8`, the frozen student's for `kl-vector`.
    """
    if source.length != about.length:
        raise CacheMismatch(
            f"{path}: the source has rows of {source.length} tokens, the cache rows of {about.length}."
        )
    where = torch.device(device)
    if micro_rows is None:
        micro_rows = max(1, _TOKENS.get(where.type, _MANY) // about.length)
    about, given = _with_head(path, about, head, first=rank == 0)
    keeper = Keeper(about, chunk=chunk, mean_of=given if about.kind == "kl-vector" else None)
    together = world > 1 and dist.is_available() and dist.is_initialized()
    job = _Job(teacher, source, path, about, keeper, micro_rows, stop, where, together)
    create_or_check(path, about)
    for folder in (path, path / SHARDS):
        files.sweep_abandoned(folder)
    reader = CacheReader(path, about)
    found = list(groups(source, positions, rows_per_shard, job.poll))
    shards = [missing(group, reader) for group in found]
    check_space(path, sum(map(len, shards)) * (estimate_row(about) + _BESIDES))
    mine = [rows for rows in shards[rank::world] if len(rows)]
    rounds = sum(-(-len(rows) // micro_rows) for rows in mine)
    # Nobody writes before everybody has read what is there: this also waits for all.
    others = job.most(rounds) - rounds
    recorded = sum(map(len, mine))
    with progress("record", recorded) as bar:
        written = job.shards(mine, bar.advance)
        for _ in range(others):
            job.micro(found[0].part(0, 1))
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
            "teacher.cached.kind that keeps less ('sample' takes about 50 bytes a token), or another path."
        )


def _digests(batch: Batch) -> list[str]:
    pairs = zip(batch.input_ids, batch.position_ids, strict=True)
    return [tokens_digest(ids, positions) for ids, positions in pairs]
