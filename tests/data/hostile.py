"""Hostile corpora: what a case is, how it is laid out, and how what became of its rows is read again."""

import gzip
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_chat

from limbeck.data.planes import open_prepared
from limbeck.errors import LimbeckError
from limbeck.sources.chat import chat
from limbeck.sources.text import text

LONGEST = 2_000
"""Characters of a message: a hostile row must not be able to fill a log."""
TOKENIZER = tiny_chat.tokenizer()

File = bytes | Path | None | Callable[[Path], None]
Kept = str | list[tuple[int, float]] | list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """files: what lies there: bytes, the aim of a link, None for a folder, or what writes it. path: what is given.

    bad: (file, line, reason) of each row that is refused; whole: why nothing is read, in either mode; named: what that
    message names. kept: what stays, in order: a text, (id, weight) of each token, or messages. Neither bad nor whole:
    all is harmless.
    """

    name: str
    files: Mapping[str, File]
    kept: tuple[Kept, ...] = ()
    bad: tuple[tuple[str, int, str], ...] = ()
    whole: str = ""
    path: str = ""
    named: str = ""
    source: str = "text"
    options: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Any = field(default=TOKENIZER, repr=False)

    @property
    def given(self) -> str:
        """What the source is given as its path."""
        return self.path or next(iter(self.files))


def jsonl(*rows: Any) -> bytes:
    """Lines of JSON; bytes stand for themselves."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"".join(line + b"\n" for line in lines)


GOOD, AFTER = {"text": "What is light is kept."}, {"text": "And so is this, caf\u00e9 \U0001f600."}
STAY = (GOOD["text"], AFTER["text"])


def between(name: str, raw: Any, reason: str, **more: Any) -> Case:
    """A case of one row that is refused between two that stay."""
    files = {"rows.jsonl": jsonl(GOOD, raw, AFTER)}
    return Case(name, files, STAY, (("rows.jsonl", 2, reason),), **more)


def harmless(name: str, raw: Any, kept: Kept | None, **more: Any) -> Case:
    """A case of one row that stays, as it is, between two others. None: it holds no token that counts."""
    middle = () if kept is None else (kept,)
    return Case(name, {"rows.jsonl": jsonl(GOOD, raw, AFTER)}, (STAY[0], *middle, STAY[1]), **more)


def lay(case: Case, folder: Path) -> str:
    """Writes the files of a case, and gives the path to read."""
    for name, held in case.files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if held is None:
            place.mkdir()
        elif isinstance(held, Path):
            place.symlink_to(held)
        elif isinstance(held, bytes):
            place.write_bytes(held)
        else:
            held(place)
    if case.given == ".":
        return str(folder)
    return case.path if case.path.startswith(("/", "~")) else f"{folder}/{case.given}"


def opened(case: Case, folder: Path, path: str, hostile: str) -> None:
    """Reads a case as a recipe would."""
    source: Any = {"text": text, "chat": chat}[case.source]
    length = {"text": 4, "chat": 64}[case.source]
    given = {"length": length, "prepared": str(folder / "prepared"), "shuffled": False}
    source(case.tokenizer, path=path, hostile=hostile, **given | dict(case.options))


def wanted(case: Case) -> list[list[tuple[int, float]]]:
    """(id, weight) of each token of what stays, by the tokenizer alone; what holds no token is not in it."""
    found = []
    for one in case.kept:
        if isinstance(one, str):
            ids = case.tokenizer(one, add_special_tokens=False, split_special_tokens=True).input_ids
            # A text in a chat ends with the separator, so that a student learns to stop.
            ids += [case.tokenizer.eos_token_id] if case.source == "chat" else []
            found.append([(number, 1.0) for number in ids])
        elif one and isinstance(one[0], dict):
            ids = case.tokenizer.apply_chat_template(one, tokenize=True, return_dict=False)
            # Weights of conversations are told apart by `counted`.
            found.append([(number, -1.0) for number in ids])
        else:
            found.append(list(one))
    return [one for one in found if one]


def stayed(case: Case, folder: Path) -> list[list[tuple[int, float]]]:
    """(id, weight) of each token of each document that was prepared."""
    (made,) = (folder / "prepared").iterdir()
    found = open_prepared(made)
    weights = np.ones(len(found.ids)) if found.weights is None else found.weights
    documents = []
    for begin, end in zip(found.starts[:-1], found.starts[1:], strict=True):
        part = slice(int(begin), int(end))
        documents.append(list(zip(found.ids[part].tolist(), weights[part].tolist(), strict=True)))
    talks = [one for one in case.kept if one]
    assert len(documents) == len(talks)
    return [
        counted(case, talk, document)
        if not isinstance(talk, str) and isinstance(talk[0], dict)
        else document
        for talk, document in zip(talks, documents, strict=True)
    ]


def counted(case: Case, talk: Any, document: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """The document, after it was seen that its answers count, with their ends, and nothing else."""
    runs: list[list[int]] = []
    before = 0.0
    for number, weight in document:
        if weight and not before:
            runs.append([])
        if weight:
            runs[-1].append(number)
        before = weight
    answers = [one["content"] for one in talk if one["role"] == "assistant"]
    assert [case.tokenizer.decode(run) for run in runs] == [f"{one}<|im_end|>" for one in answers]
    return [(number, -1.0) for number, _ in document]


def listed(folder: Path) -> list[tuple[str, int, str]]:
    """(file, line, reason) of each row in quarantine, files beside the folder of the case."""
    found = sorted((folder / "prepared").glob("*/quarantine.jsonl"))
    lines = [json.loads(line) for file in found for line in file.read_bytes().splitlines()]
    return [(str(Path(one["file"])), one["line"], one["reason"]) for one in lines]


def numbers(folder: Path) -> dict[str, int]:
    """What the one prepared folder counted."""
    (file,) = (folder / "prepared").glob("*/counts.json")
    found: dict[str, int] = json.loads(file.read_bytes())
    return found


def refused(case: Case, folder: Path, path: str, hostile: str, pattern: str) -> str:
    """Reads a case that must end in an error of ours, and gives its message."""
    with pytest.raises(LimbeckError, match=pattern) as caught:
        opened(case, folder, path, hostile)
    message = str(caught.value)
    assert len(message) < LONGEST, len(message)
    assert message.encode("utf-8", "surrogateescape"), "a message that can be written down"
    aside = folder / "prepared"
    left = list(aside.iterdir()) if aside.exists() else []
    # Parts of a large text that are whole stay, for when the others are mended.
    assert all(one.name.endswith(".parts") for one in left), "nothing half made is left behind"
    return message


def stops(case: Case, folder: Path) -> None:
    """Under `stop`: an error that names the place, or every row as it was."""
    path = lay(case, folder)
    if case.whole:
        assert (case.named or path) in refused(case, folder, path, "stop", case.whole)
    elif case.bad:
        file, line, reason = case.bad[0]
        place = re.escape(f"{folder / file}:{line}: ")
        refused(case, folder, path, "stop", f"^{place}(?s:.*)({reason})")
    else:
        opened(case, folder, path, "stop")
        assert stayed(case, folder) == wanted(case)


def sets_aside(case: Case, folder: Path) -> None:
    """Under `quarantine`: the bad rows are listed, no other, and every other row is as it was."""
    path = lay(case, folder)
    if case.whole:
        assert (case.named or path) in refused(case, folder, path, "quarantine", case.whole)
        return
    opened(case, folder, path, "quarantine")
    assert stayed(case, folder) == wanted(case)
    found = listed(folder)
    assert [(file, line) for file, line, _ in found] == [
        (str(folder / file), line) for file, line, _ in case.bad
    ]
    for (_, _, said), (_, _, reason) in zip(found, case.bad, strict=True):
        assert re.search(reason, said), (said, reason)
        assert len(said) < LONGEST
    counts = numbers(folder)
    assert (counts["kept"], counts["quarantined"]) == (len(case.kept), len(case.bad))


def packed(raw: bytes) -> bytes:
    """gzip's bytes, the same at every call."""
    return gzip.compress(raw, mtime=0)
