"""Where a recording goes: a cache of what the teacher says, caches of its taps, and tasks that each lack the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck import files
from limbeck.cache.format import CacheAbout
from limbeck.cache.kinds import estimate_row
from limbeck.cache.read import CacheReader
from limbeck.cache.write import shard_folder, write_shard
from limbeck.errors import Damaged, LimbeckError
from limbeck.featuring import FeatureKeeper
from limbeck.keeping import Keeper
from limbeck.planning import Planned, missing
from limbeck.selection.joined import Record, joined
from limbeck.types import Batch, Signal, Wanted

# Bytes that a row needs besides its planes: its part of the manifest and of disk blocks.
_BESIDES = 512


@dataclass(frozen=True)
class Store:
    """One cache that is recorded into: that of what the teacher says, or of what it has at a tap."""

    path: Path
    keeper: Keeper | FeatureKeeper

    @property
    def about(self) -> CacheAbout:
        """What the cache says of itself."""
        return self.keeper.about

    def narrowed(self, rows: Planned) -> Planned:
        """The rows with those of their tokens that are kept here."""
        return self.keeper.narrowed(rows) if isinstance(self.keeper, FeatureKeeper) else rows

    def keep(self, signal: Signal, batch: Batch, rows: Planned) -> Record:
        """What is kept here of a micro-batch."""
        if isinstance(self.keeper, FeatureKeeper):
            return self.keeper.keep(signal, batch, self.narrowed(rows).mask(self.about.length))
        return self.keeper.keep(signal, batch)

    def write(self, rows: Planned, records: Sequence[Record], tokens: Sequence[str]) -> int:
        """Commits one shard and returns its bytes; 0 where another recorder was faster with the same shard."""
        recorded = self.narrowed(rows).mask(self.about.length)
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


@dataclass(frozen=True)
class Task:
    """Rows of one group that the same caches lack: a shard in each of them."""

    rows: Planned
    stores: tuple[Store, ...]

    @property
    def wanted(self) -> Wanted:
        """What the teacher is asked for."""
        taps = [s.about.tap for s in self.stores if s.about.kind == "feature"]
        return Wanted(distribution=len(taps) < len(self.stores), features=tuple(taps))


def write(task: Task, records: Sequence[Sequence[Record]], tokens: Sequence[str]) -> int:
    """Commits a task's shards; records: of each micro-batch, of each cache."""
    pairs = zip(task.stores, zip(*records, strict=True), strict=True)
    return sum(store.write(task.rows, each, tokens) for store, each in pairs)


def tasks(group: Planned, stores: Sequence[Store], readers: Sequence[CacheReader]) -> list[Task]:
    """What a group lacks, rows that lack the same together. Mostly one task: all of it in every cache."""
    pairs = zip(stores, readers, strict=True)
    lacking = [set(missing(store.narrowed(group), reader).addresses) for store, reader in pairs]
    found: dict[tuple[int, ...], set[str]] = {}
    for address in group.addresses:
        which = tuple(number for number, rows in enumerate(lacking) if address in rows)
        if which:
            found.setdefault(which, set()).add(address)
    return [
        Task(group.among(rows), tuple(stores[number] for number in which))
        for which, rows in found.items()
    ]


def size(task: Task) -> int:
    """Bytes that a task will take, for planning."""
    each = sum(estimate_row(store.about) + _BESIDES for store in task.stores)
    return len(task.rows) * each


def _stands(folder: Path, about: CacheAbout) -> bool:
    """Whether a whole shard of this cache stands there."""
    try:
        return files.verify(folder).about == {"cache": about.identity}
    except Damaged:
        return False
