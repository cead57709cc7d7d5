"""What a cache says of itself, and where its parts lie: cache.json, then shards/<name>/ committed folders."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from limbeck import files
from limbeck.errors import CacheMismatch, Damaged

VERSION = 2
ABOUT = "cache.json"
SHARDS = "shards"
ROWS = "rows.safetensors"
PLANES = "planes.safetensors"
FLOATS = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
CODE8 = "code8"
# The settings that each kind uses; the others stand at their defaults, so that equal caches say the same.
USES = {
    "sample": ("threshold", "draws"),
    "rs": ("samples",),
    "topk+rest": ("k", "values"),
    "hidden8": ("width", "head"),
    "kl-vector": ("values", "width", "head"),
    "feature": ("width", "tap", "share", "numbers", "channels"),
}
# What only a cache of features says of itself; the others do not write it.
_OF_FEATURES = ("tap", "share", "numbers", "channels")
FEATURES = "features"
FEATURE_NUMBERS = ("bfloat16", "int8", "float32")
_INFORMATIONAL = ("teacher_name", "libraries")
# The types of the fields, by the word that stands beside them below; true is no number, and 7.0 is not 7.
_TYPES = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number with a point"),
    "dict[str, str]": (dict, "names with their versions"),
}
# What to correct in the recipe, where it is not teacher.cached.<field>.
_CURES = {
    "teacher": "teacher.cached.model",
    "tokenizer": "the source's tokenizer",
    "vocab": "the source's tokenizer",
    "length": "the source's length",
    "width": "teacher.cached.model, feature_width or the student",
    "head": "teacher.cached.model or the student",
    "share": "teacher.cached.feature_share",
    "numbers": "teacher.cached.feature_numbers",
    "channels": "teacher.cached.feature_width",
    "tap": "what stands in features/",
}


def libraries() -> dict[str, str]:
    """The versions that a cache was recorded with; told to people, not compared."""
    return {"python": platform.python_version(), "torch": torch.__version__}


@dataclass(frozen=True)
class CacheAbout:
    """What a cache was recorded from, and how. teacher and tokenizer are fingerprints, not names.

    vocab: number of true ids. length: tokens a row. kind: what is kept of a token, see USES. threshold, draws:
    of `sample`. samples: draws a token of `rs`. k: ids kept. values: how numbers are kept, `code8` or a float.
    width: of hidden states or mean rows. head: the digest of the head beside them; "" where it is not known yet.
    Of `feature`, which stands in features/<tap>/ of another cache: tap: the teacher's. share: of each row's tokens.
    numbers: bfloat16, int8 in groups or float32. channels: those of the tap, of which width may be a projection.
    teacher_name and libraries are for people; every other field must be equal for a cache to be used.
    """

    teacher: str
    tokenizer: str
    vocab: int
    length: int
    kind: str = "sample"
    threshold: float = 0.02
    draws: int = 1
    samples: int = 50
    k: int = 64
    values: str = CODE8
    width: int = 0
    head: str = ""
    tap: str = ""
    share: float = 1.0
    numbers: str = "bfloat16"
    channels: int = 0
    teacher_name: str = ""
    version: int = VERSION
    libraries: dict[str, str] = field(default_factory=libraries)

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_type(item.name, getattr(self, item.name), str(item.type))
        if self.kind not in USES:
            raise CacheMismatch(
                f"teacher.cached.kind '{self.kind}' found; wanted one of {', '.join(USES)}."
            )
        if self.vocab < 1 or self.length < 1:
            raise CacheMismatch(
                f"vocab {self.vocab}, length {self.length} found; wanted 1 or more of each."
            )
        for item in fields(self):
            if item.name in _RULES:
                self._check(item.name, getattr(self, item.name), item.default)

    def _check(self, name: str, value: Any, default: Any) -> None:
        """Refuses a setting that makes no sense, or that the kind does not use."""
        fits, wanted = _RULES[name]
        if name not in USES[self.kind]:
            if value != default:
                having = ", ".join(kind for kind, used in USES.items() if name in used)
                raise CacheMismatch(
                    f"teacher.cached.{name} {value} found; kind '{self.kind}' does not use it. "
                    f"Take it out, or choose a kind that does: {having}."
                )
        elif not fits(value, self):
            raise CacheMismatch(
                f"{name} {value} found; wanted {wanted(self)}. Correct {_cure(name, own=True)}."
            )

    @property
    def high_bits(self) -> int:
        """Bits of an id beyond the first 16."""
        return max(0, (self.vocab - 1).bit_length() - 16)

    @property
    def floats(self) -> torch.dtype:
        """The dtype of exact values; of what is read where they are codes."""
        return FLOATS.get(self.values, torch.float32)

    @property
    def identity(self) -> str:
        """SHA-256 of what must be equal; every shard carries it, so that no shard enters another cache."""
        return files.digest(files.canonical(_compared(self)))


def _check_type(name: str, value: Any, word: str) -> None:
    """Refuses a value of another type: equal caches must spell the same bytes."""
    wanted, said = _TYPES[word]
    if type(value) is not wanted:
        raise CacheMismatch(f"{name} {value!r} found; wanted {said}. Correct {_cure(name)}.")


def _cure(name: str, *, own: bool = False) -> str:
    """What to correct in the recipe; own: the setting itself, and not what it follows from."""
    plain = f"teacher.cached.{name}"
    return plain if own and name not in _OF_FEATURES else _CURES.get(name, plain)


# What each setting must be, and how that is said.
_RULES: dict[str, tuple[Callable[[Any, CacheAbout], bool], Callable[[CacheAbout], str]]] = {
    # At 0.004 one token may have 250 exact ids and 251 drawn ones: counts are one byte.
    "threshold": (lambda x, _: 0.004 <= x <= 0.5, lambda _: "0.004 to 0.5"),
    "draws": (lambda x, _: 1 <= x <= 255, lambda _: "1 to 255"),
    "samples": (lambda x, _: 1 <= x <= 255, lambda _: "1 to 255"),
    "k": (
        lambda x, about: 1 <= x <= about.vocab,
        lambda about: f"1 to {about.vocab:,}, the ids of the tokenizer",
    ),
    "values": (lambda x, _: x == CODE8 or x in FLOATS, lambda _: ", ".join([CODE8, *FLOATS])),
    "width": (lambda x, _: x >= 0, lambda _: "the width of the model"),
    "head": (
        lambda x, _: re.fullmatch("([0-9a-f]{64})?", x) is not None,
        lambda _: "the 64 hexadecimal digits of a head's digest",
    ),
    "tap": (
        lambda x, _: re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*", x) is not None,
        lambda _: "the name of a module",
    ),
    "share": (lambda x, _: 0 < x <= 1, lambda _: "above 0, 1 at most"),
    "numbers": (lambda x, _: x in FEATURE_NUMBERS, lambda _: ", ".join(FEATURE_NUMBERS)),
    "channels": (
        lambda x, about: 1 <= about.width <= x,
        lambda about: f"{about.width} or more: a projection has no more channels than its tap",
    ),
}


def _said(about: CacheAbout) -> dict[str, Any]:
    """What is written."""
    feature = about.kind == "feature"
    return {k: value for k, value in asdict(about).items() if feature or k not in _OF_FEATURES}


def _compared(about: CacheAbout) -> dict[str, Any]:
    return {key: value for key, value in _said(about).items() if key not in _INFORMATIONAL}


def chosen(
    options: Mapping[str, Any], found: CacheAbout | None = None, *, vocab: int
) -> dict[str, Any]:
    """The settings that the options of a cached teacher name; k of more ids than there are means all of them.

    width and head, which no recipe names, are those of the cache that was found.
    """
    named = ("kind", *(name for name in _RULES if name not in _OF_FEATURES))
    given = {name: options[name] for name in named if name in options}
    kind = given.setdefault("kind", CacheAbout.kind)
    _check_type("kind", kind, "str")
    used = USES.get(kind, ())
    if "k" in used:
        k = given.get("k", CacheAbout.k)
        _check_type("k", k, "int")
        given["k"] = min(k, vocab)
    for name in ("width", "head"):
        same = found is not None and found.kind == kind and name in used
        given[name] = getattr(found if same else CacheAbout, name)
    return given


def check_same(path: Path, found: CacheAbout, wanted: CacheAbout) -> None:
    """Refuses a cache that was recorded from something else, naming both values of the first difference."""
    mine, theirs = _compared(found), _compared(wanted)
    for key, value in mine.items():
        if key in theirs and (type(value), value) != (type(theirs[key]), theirs[key]):
            raise CacheMismatch(
                f"{path}: recorded with {key} {value}, this recipe has {key} {theirs[key]}. "
                f"Record into another folder with 'limbeck record', or correct {_cure(key)}."
            )


def write_about(path: Path, about: CacheAbout) -> None:
    """Writes cache.json with its own digest."""
    files.write_bytes(path / ABOUT, files.sealed(_said(about)))


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
        cure = (
            f"'limbeck convert {path} NEW' writes it in version {VERSION}"
            if body.get("version") == 1
            else "Record again with 'limbeck record'"
        )
        raise CacheMismatch(
            f"{place}: written in version {body.get('version')}, this program reads {VERSION}. {cure}."
        )
    left_out = () if body.get("kind") == "feature" else _OF_FEATURES
    if set(body) != {item.name for item in fields(CacheAbout) if item.name not in left_out}:
        raise Damaged(f"{place}: its keys are {', '.join(sorted(body))}.")
    try:
        return CacheAbout(**body)
    except CacheMismatch as reason:
        raise Damaged(
            f"{place}: {reason} No cache can say this of itself: record into another folder with 'limbeck record'."
        ) from reason


def shard_name(addresses: Sequence[str], recorded: bytes = b"") -> str:
    """The name of the shard of these rows: the same whoever writes it.

    recorded: which of their tokens are, as bits, where not all are: rows may be recorded again with more of them.
    """
    return files.digest("\n".join(addresses).encode() + recorded)[:32]


def tokens_digest(input_ids: torch.Tensor, position_ids: torch.Tensor) -> str:
    """What a teacher's view of a row depends on, as 32 hexadecimal digits. Both int64 (time,)."""
    both = torch.stack([input_ids, position_ids]).to("cpu", torch.int64).contiguous()
    return files.digest(both.numpy().astype("<i8", copy=False).tobytes())[:32]
