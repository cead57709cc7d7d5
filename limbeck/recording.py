"""Records a teacher: what it says of every row goes into a cache, shard by shard, and never twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from limbeck import files
from limbeck.cache.format import SHARDS, CacheAbout, tokens_digest
from limbeck.cache.read import CacheReader
from limbeck.cache.write import create_or_check, write_shard
from limbeck.errors import CacheMismatch, Interrupted, LimbeckError, ModelError
from limbeck.progress import progress
from limbeck.types import Batch, Signal, Source, Teacher, TopK, Wanted

# Rows looked at in one call while planning; only their addresses are kept.
_GLANCE = 256
# Bytes that a row needs besides its tensors: address, digest, its part of the manifest and of disk blocks.
_BESIDES = 512


@dataclass(frozen=True)
class RecordCounts:
    """What one rank did: rows recorded now, rows of its share that were there before, bytes written."""

    recorded: int
    already_there: int
    bytes: int


@dataclass(frozen=True)
class _Rows:
    """Rows that become one shard: their positions in the source, and the addresses found there."""

    positions: tuple[int, ...]
    addresses: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def part(self, start: int, size: int) -> _Rows:
        """A micro-batch of them."""
        return _Rows(self.positions[start : start + size], self.addresses[start : start + size])


@dataclass(frozen=True)
class _Job:
    """All that stays the same while recording."""

    teacher: Teacher
    source: Source
    path: Path
    about: CacheAbout
    micro_rows: int
    chunk: int
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

    def micro(self, rows: _Rows) -> tuple[list[TopK], list[str]]:
        """The kept tokens (tokens, k) of a micro-batch in chunks, and the digest of each row's tokens."""
        self.poll()
        batch = self.source.batch(rows.positions)
        if batch.addresses != rows.addresses:
            raise CacheMismatch(
                f"{self.path}: position {rows.positions[0]} held row {rows.addresses[0]} when planned, "
                f"now {batch.addresses[0]}. The text changed while it was recorded; begin again."
            )
        with torch.no_grad():
            signal = self.teacher.signal(batch.to(self.device), Wanted())
            kept = [
                _likeliest_of(signal, slice(start, start + self.chunk), self.about)
                for start in range(0, batch.input_ids.numel(), self.chunk)
            ]
        return kept, _digests(batch)

    def shard(self, rows: _Rows) -> int:
        """Commits one shard and returns its bytes."""
        pieces: list[TopK] = []
        tokens: list[str] = []
        for start in range(0, len(rows), self.micro_rows):
            kept, digests = self.micro(rows.part(start, self.micro_rows))
            pieces += kept
            tokens += digests
        whole = TopK(
            torch.cat([piece.ids for piece in pieces]),
            torch.cat([piece.logprobs for piece in pieces]),
            torch.cat([piece.rest for piece in pieces if piece.rest is not None]),
        )
        folder = write_shard(self.path, rows.addresses, whole, self.about, tokens=tokens)
        return sum(path.stat().st_size for path in folder.iterdir())


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
    rank: int = 0,
    world: int = 1,
    rows_per_shard: int = 64,
    micro_rows: int = 4,
    chunk: int = 256,
    stop: Callable[[], bool] = never,
    device: torch.device | str = "cpu",
) -> RecordCounts:
    """Adds the rows at these positions to the cache at `path`; a row that is there is not computed again.

    Groups of rows are fixed by `positions` alone and a group's missing rows become one shard, so that a killed and
    repeated recording leaves the bytes of an undisturbed one. Rank r takes each group g with g % world == r.
    `chunk` tokens have their logits (chunk, vocab) at one time. Ranks of one process group keep pace, because a
    sharded teacher needs them all in each forward.
    """
    if source.length != about.length:
        raise CacheMismatch(
            f"{path}: the source has rows of {source.length} tokens, the cache rows of {about.length}."
        )
    together = world > 1 and dist.is_available() and dist.is_initialized()
    job = _Job(
        teacher, source, path, about, micro_rows, chunk, stop, torch.device(device), together
    )
    create_or_check(path, about)
    for folder in (path, path / SHARDS):
        files.sweep_abandoned(folder)
    reader = CacheReader(path, about)
    groups = list(_groups(job, positions, rows_per_shard))
    shards = [_missing(group, reader) for group in groups]
    check_space(path, sum(map(len, shards)) * (about.bytes_per_row + _BESIDES))
    mine = [rows for rows in shards[rank::world] if len(rows)]
    rounds = sum(-(-len(rows) // micro_rows) for rows in mine)
    # Nobody writes before everybody has read what is there: this also waits for all.
    others = job.most(rounds) - rounds
    written, recorded = 0, sum(map(len, mine))
    with progress("record", recorded) as bar:
        for rows in mine:
            written += job.shard(rows)
            bar.advance(len(rows))
        for _ in range(others):
            job.micro(groups[0].part(0, 1))
    return RecordCounts(recorded, sum(map(len, groups[rank::world])) - recorded, written)


def likeliest(logits: Tensor, k: int) -> TopK:
    """The k likeliest of logits (tokens, vocab): ids, logprobs (tokens, k), rest (tokens,), in float32 or float64.

    The rest is summed over the ids that were not kept: 1 - sum(kept) would lose it to rounding.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    logprobs = wide.log_softmax(-1)
    kept, ids = logprobs.topk(k)
    rest = logprobs.scatter_(-1, ids, -torch.inf).logsumexp(-1)
    return TopK(ids, kept, rest)


def check_space(path: Path, wanted: int) -> None:
    """Refuses to begin what the disk cannot hold."""
    free = shutil.disk_usage(path).free
    if wanted > free:
        raise LimbeckError(
            f"{path}: recording needs {wanted:,} bytes, the disk has {free:,} free. "
            "Free some, choose a smaller teacher.cached.k or float16 logprobs, or another path."
        )


def _groups(job: _Job, positions: Sequence[int], size: int) -> Iterator[_Rows]:
    """The rows at these positions, each once and in order, in groups of `size`."""
    seen: set[str] = set()
    waiting: list[tuple[int, str]] = []
    for start in range(0, len(positions), _GLANCE):
        job.poll()
        glance = positions[start : start + _GLANCE]
        for position, address in zip(glance, job.source.batch(glance).addresses, strict=True):
            if address not in seen:
                seen.add(address)
                waiting.append((position, address))
            if len(waiting) == size:
                yield _rows(waiting)
                waiting = []
    if waiting:
        yield _rows(waiting)


def _rows(pairs: Sequence[tuple[int, str]]) -> _Rows:
    return _Rows(tuple(position for position, _ in pairs), tuple(address for _, address in pairs))


def _missing(rows: _Rows, reader: CacheReader) -> _Rows:
    """Those rows of a group that no committed shard holds."""
    pairs = zip(rows.positions, rows.addresses, strict=True)
    return _rows([(position, address) for position, address in pairs if address not in reader])


def _digests(batch: Batch) -> list[str]:
    pairs = zip(batch.input_ids, batch.position_ids, strict=True)
    return [tokens_digest(ids, positions) for ids, positions in pairs]


def _likeliest_of(signal: Signal, part: slice, about: CacheAbout) -> TopK:
    """What is kept of a chunk of tokens, on the CPU and in the dtype of the cache."""
    found = signal.distribution(part)
    if found is None:
        raise ModelError("the teacher gives no distribution; only one that does can be recorded.")
    if isinstance(found, Tensor):
        if found.shape[-1] != about.vocab:
            raise ModelError(
                f"the teacher has logits for {found.shape[-1]:,} ids, the tokenizer has "
                f"{about.vocab:,}. Give the teacher the number of ids that count."
            )
        found = likeliest(found, about.k)
    rest = None if found.rest is None else found.rest.to("cpu", about.floats)
    if rest is None:
        raise ModelError("the teacher keeps some ids and does not tell the mass of the others.")
    return TopK(found.ids.cpu(), found.logprobs.to("cpu", about.floats), rest)
