"""Public corpora from the Hugging Face Hub into shards of JSON lines: streamed, resumed by shard, each shard whole or absent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from limbeck import checked, files
from limbeck.data.inputs import ROWS, inputs
from limbeck.data.records import opened
from limbeck.data.sieve import unusable
from limbeck.errors import DataError
from limbeck.folder import beside, locked
from limbeck.mirroring import Repository, listed
from limbeck.progress import progress, say

STATE = "state.json"
SIDES = ("train", "held_out")
COUNTS = ("shards", "read", "kept", "empty")


class _Stopped(TypedDict):
    """Where a collection stands, behind each shard."""

    wanted: dict[str, Any]
    where: str
    state: dict[str, Any]
    shards: checked.Whole
    read: checked.Whole
    kept: checked.Whole
    empty: checked.Whole


@dataclass(frozen=True)
class Corpus:
    """Where a corpus lies, and what is kept of its rows. text: the key that a row must have something under."""

    name: str
    text: str
    beside: tuple[str, ...]
    score: str | None = None
    subset: str | None = None


CORPORA = {
    "fineweb-edu": Corpus(
        "HuggingFaceFW/fineweb-edu", "text", ("id", "url", "int_score"), "int_score",
        "CC-MAIN-2014-49",
    ),
    "openhermes": Corpus(
        "teknium/OpenHermes-2.5", "conversations", ("system_prompt", "source", "category")
    ),
}  # fmt: skip
"""{name on the command line: what it is}"""


@dataclass(frozen=True)
class Wanted:
    """What to collect. subset: of the Hub. samples: rows a shard. shards: at most; None for all there is. least: of the score.

    held_out: share of the rows, by their content. place: a folder of the same rows in the place of the Hub.
    """

    corpus: str
    subset: str | None = None
    samples: int = 50_000
    shards: int | None = None
    least: int | None = None
    held_out: float = 0.005
    compressed: bool = True
    place: str | None = None


def collect(wanted: Wanted, folder: Path) -> Path:
    """Writes train/ and held_out/ with a file a shard; goes on behind the last whole one. Finished, it is verified.

    Raises DataError where the folder holds something else, or the corpus cannot be read.
    """
    _check(wanted)
    if (folder / files.MANIFEST).is_file():
        _same(folder, files.verify(folder).about["wanted"], asdict(wanted))
        return folder
    with locked(folder, beside(folder), "Wait for it, or give another folder with --to."):
        about = _written(wanted, folder)
        if not about["kept"]:
            raise DataError(
                f"{about['where']}: none of {about['read']:,} rows was kept. Lower --score, or look at the corpus."
            )
        files.seal(folder, {"kind": "corpus"} | about)
    told = "{kept:,} of {read:,} rows kept in {shards:,} shards; {empty:,} held no text."
    say(f"{folder}: {told.format(**about)}")
    return folder


def _written(wanted: Wanted, folder: Path) -> dict[str, Any]:
    """Writes every shard that is missing. What was wanted, read from where, and the counts."""
    corpus = CORPORA[wanted.corpus]
    rows, where = _rows(corpus, wanted)
    about: dict[str, Any] = {"wanted": asdict(wanted), "where": where}
    about |= dict.fromkeys(COUNTS, 0)
    if (folder / STATE).is_file():
        told = checked.read(folder / STATE, _Stopped, f"Remove {folder}, and collect again.")
        _same(folder, told["wanted"], about["wanted"])
        _same(folder, {"where": told["where"]}, {"where": where})
        rows.load_state_dict(told["state"])
        about |= {name: number for name, number in told.items() if name in COUNTS}
        say(f"{folder}: goes on behind shard {about['shards']} ({about['kept']:,} rows kept).")
    else:
        _only_ours(folder)
    for inner in (folder, *(folder / side for side in SIDES)):
        files.sweep(inner)
    stream, ended = iter(rows), False
    with progress(f"collect {wanted.corpus} (shards)", wanted.shards, done=about["shards"]) as bar:
        while not ended and (wanted.shards is None or about["shards"] < wanted.shards):
            part = _Part(corpus, wanted)
            ended = part.fill(stream)
            if part.kept:
                part.write(folder, about["shards"])
                bar.advance()
            found = {
                "shards": int(part.kept > 0),
                "read": part.read,
                "kept": part.kept,
                "empty": part.empty,
            }
            about |= {name: about[name] + found[name] for name in COUNTS}
            files.write_json(folder / STATE, about | {"state": rows.state_dict()})
    return about


class _Part:
    """The rows of one shard."""

    def __init__(self, corpus: Corpus, wanted: Wanted) -> None:
        self._corpus, self._wanted = corpus, wanted
        self._lines: dict[str, list[bytes]] = {side: [] for side in SIDES}
        self.read = self.kept = self.empty = 0

    def fill(self, stream: Iterator[dict[str, Any]]) -> bool:
        """Takes rows until there are enough; True where there were no more."""
        for row in stream:
            self.read += 1
            line = self._line(row)
            if line is not None:
                side = "held_out" if files.in_share(line, self._wanted.held_out) else "train"
                self._lines[side].append(line)
                self.kept += 1
            if self.kept == self._wanted.samples:
                return False
        return True

    def _line(self, row: dict[str, Any]) -> bytes | None:
        """A row as a line, or None where it is not wanted."""
        corpus, least = self._corpus, self._wanted.least
        if least is not None and corpus.score and not (row.get(corpus.score) or 0) >= least:
            return None
        said = row.get(corpus.text)
        if not said or (isinstance(said, str) and unusable(said)):
            self.empty += 1
            return None
        kept = {key: row[key] for key in (corpus.text, *corpus.beside) if row.get(key) is not None}
        return json.dumps(kept, ensure_ascii=False).encode() + b"\n"

    def write(self, folder: Path, number: int) -> None:
        """A file in train and one in held_out, each whole."""
        ending = ".jsonl.gz" if self._wanted.compressed else ".jsonl"
        for side, lines in self._lines.items():
            raw = b"".join(lines)
            (folder / side).mkdir(exist_ok=True)
            # No time in the header: the same rows are the same bytes.
            packed = gzip.compress(raw, mtime=0) if self._wanted.compressed else raw
            if lines:
                files.write_bytes(folder / side / f"shard-{number:05d}{ending}", packed)


def _rows(corpus: Corpus, wanted: Wanted) -> tuple[Any, str]:
    """The stream of rows, which can tell where it stands, and what exactly it reads."""
    if wanted.place is None:
        subset = wanted.subset or corpus.subset
        found = inputs(f"{corpus.name}:{subset}" if subset else corpus.name, kinds=ROWS)
        assert found.hub is not None
        return opened(found, "train", found.hub.name), f"{found.hub.name}@{found.hub.revision}"
    found = inputs(wanted.place, kinds=ROWS)
    if not found.files:
        raise DataError(f"{wanted.place}: wanted files of rows, JSONL or Parquet.")
    from datasets import load_dataset

    endings = {path.suffix for path in found.files}
    kind = "parquet" if endings == {".parquet"} else "json"
    rows = load_dataset(
        kind, data_files=[str(path) for path in found.files], split="train", streaming=True
    )
    return rows, files.digest(files.canonical(found.identity()))


def size(wanted: Wanted) -> int | None:
    """Bytes that lie at the source, of the subset; None where that is not told. Raises DataError where there is no such thing."""
    _check(wanted)
    if wanted.place is not None:
        return inputs(wanted.place, kinds=ROWS).size
    corpus = CORPORA[wanted.corpus]
    subset = wanted.subset or corpus.subset
    # A subset is a folder, or one in another: sample-10BT lies in sample/10BT.
    places = (f"*/{subset}/", f"{subset.replace('-', '/', 1)}/") if subset else ("",)
    include = tuple(f"{place}*{ending}" for place in places for ending in (".parquet", ".json"))
    return listed(Repository(corpus.name, include=include)).size


def _check(wanted: Wanted) -> None:
    """Raises for what nobody would heed."""
    corpus = CORPORA[wanted.corpus]
    if wanted.least is not None and corpus.score is None:
        raise DataError(f"--score: {wanted.corpus} has no score. Leave it out.")
    if wanted.subset is not None and (wanted.place is not None or corpus.subset is None):
        what = "a folder (--source)" if wanted.place is not None else wanted.corpus
        raise DataError(f"--subset: {what} has no subsets. Leave it out.")


def _only_ours(folder: Path) -> None:
    """Raises where a folder holds anything but what a kill before its first state can have left."""
    for path in folder.rglob("*"):
        shard = path.parent.name in SIDES and "shard-" in path.name
        if path.is_file() and not shard and not path.name.startswith("."):
            raise DataError(
                f"{folder} holds {path.name}, which is no shard. Give another folder with --to."
            )


def _same(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    for key, value in now.items():
        if before.get(key) != value:
            raise DataError(
                f"{folder} was begun with {key} {before.get(key)}, now it is {value}. Give another folder with --to."
            )
