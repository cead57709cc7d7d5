"""What a cache says of itself, and where its parts lie: cache.json, then shards/<name>/ committed folders."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from limbeck import files
from limbeck.errors import CacheMismatch, Damaged

VERSION = 1
ABOUT = "cache.json"
SHARDS = "shards"
ROWS = "rows.json"
TENSORS = "rows.safetensors"
FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
_INFORMATIONAL = ("teacher_name", "libraries")
# What to correct in the recipe, by field.
_CURES = {
    "teacher": "teacher.cached.model",
    "tokenizer": "the source's tokenizer",
    "vocab": "the source's tokenizer",
    "k": "teacher.cached.k",
    "logprobs": "teacher.cached.logprobs",
    "length": "the source's length",
}


def libraries() -> dict[str, str]:
    """The versions that a cache was recorded with; told to people, not compared."""
    return {"python": platform.python_version(), "torch": torch.__version__}


@dataclass(frozen=True)
class CacheAbout:
    """What a cache was recorded from, and how. teacher and tokenizer are fingerprints, not names.

    vocab: number of true ids. k: ids kept a token. logprobs: their dtype. length: tokens a row.
    teacher_name and libraries are for people; every other field must be equal for a cache to be used.
    """

    teacher: str
    tokenizer: str
    vocab: int
    k: int
    length: int
    logprobs: str = "float32"
    teacher_name: str = ""
    version: int = VERSION
    libraries: dict[str, str] = field(default_factory=libraries)

    def __post_init__(self) -> None:
        if self.logprobs not in FLOATS:
            raise CacheMismatch(
                f"logprobs '{self.logprobs}' found; wanted one of {', '.join(FLOATS)}."
            )
        if not 1 <= self.k <= self.vocab:
            raise CacheMismatch(
                f"k {self.k} found; wanted 1 to {self.vocab}, the ids of the tokenizer. "
                "Correct teacher.cached.k."
            )
        if self.length < 1:
            raise CacheMismatch(f"length {self.length} found; wanted 1 token a row or more.")

    @property
    def ids(self) -> torch.dtype:
        """The narrowest integer that holds each id."""
        return torch.uint16 if self.vocab <= 65_536 else torch.int32

    @property
    def floats(self) -> torch.dtype:
        """The dtype of logprobs and rest."""
        return FLOATS[self.logprobs]

    @property
    def identity(self) -> str:
        """SHA-256 of what must be equal; every shard carries it, so that no shard enters another cache."""
        return files.digest(files.canonical(_compared(self)))

    @property
    def bytes_per_row(self) -> int:
        """Bytes of the tensors of one row."""
        kept = self.k * (self.ids.itemsize + self.floats.itemsize)
        return self.length * (kept + self.floats.itemsize)


def _compared(about: CacheAbout) -> dict[str, Any]:
    return {key: value for key, value in asdict(about).items() if key not in _INFORMATIONAL}


def check_same(path: Path, found: CacheAbout, wanted: CacheAbout) -> None:
    """Refuses a cache that was recorded from something else, naming both values of the first difference."""
    mine, theirs = _compared(found), _compared(wanted)
    for key, value in mine.items():
        if value != theirs[key]:
            cure = f", or correct {_CURES[key]}" if key in _CURES else ""
            raise CacheMismatch(
                f"{path}: recorded with {key} {value}, this recipe has {key} {theirs[key]}. "
                f"Record into another folder with 'limbeck record'{cure}."
            )


def write_about(path: Path, about: CacheAbout) -> None:
    """Writes cache.json with its own digest."""
    files.write_bytes(path / ABOUT, files.sealed(asdict(about)))


def read_about(path: Path) -> CacheAbout:
    """Reads cache.json; a changed byte is refused."""
    place = path / ABOUT
    if not place.is_file():
        raise CacheMismatch(
            f"{path} holds no {ABOUT}: no cache was recorded there. "
            "Run 'limbeck record' with this recipe, or correct teacher.cached.path."
        )
    body = files.parse_sealed(place.read_bytes(), str(place))
    if body.get("version") != VERSION:
        raise CacheMismatch(
            f"{place}: written in version {body.get('version')}, this program reads {VERSION}. "
            "Record again with 'limbeck record'."
        )
    if set(body) != {item.name for item in fields(CacheAbout)}:
        raise Damaged(f"{place}: its keys are {', '.join(sorted(body))}.")
    return CacheAbout(**body)


def shard_name(addresses: Sequence[str]) -> str:
    """The name of the shard of these rows: the same whoever writes it."""
    return files.digest("\n".join(addresses).encode())[:32]


def tokens_digest(input_ids: torch.Tensor, position_ids: torch.Tensor) -> str:
    """What a teacher's view of a row depends on, as 32 hexadecimal digits. Both int64 (time,)."""
    both = torch.stack([input_ids, position_ids]).to("cpu", torch.int64).contiguous()
    return files.digest(both.numpy().astype("<i8", copy=False).tobytes())[:32]
