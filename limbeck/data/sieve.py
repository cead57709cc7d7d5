"""What becomes of text that cannot be used: the run stops, or the line is set aside and counted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from limbeck.errors import DataError

# A file of another format altogether should stop the run, not fill the disk with complaints.
MOST_QUARANTINED = 100_000
MAX_BYTES = 100_000_000


@dataclass
class Sieve:
    """Keeps or refuses each row; rows in are always kept + quarantined.

    quarantine: a JSONL file (file, line, reason) for refused rows; None stops at the first one.
    earlier: called before a row is refused, so that rows read before it, of which some are refused later than they
    are read, come first.
    """

    quarantine: Path | None = None
    max_bytes: int = MAX_BYTES
    kept: int = 0
    quarantined: int = 0
    read_bytes: int = 0
    earlier: Callable[[], None] = field(default=lambda: None, repr=False)
    _stream: TextIO | None = field(default=None, repr=False)

    def refuse(self, file: str, line: int, reason: str) -> None:
        """Raises DataError, or writes the row's place and the reason down."""
        self.earlier()
        if self.quarantine is None:
            raise DataError(
                f"{file}:{line}: {reason}. Mend the file, or set hostile: quarantine to go on "
                "without such rows and have them listed."
            )
        if self._stream is None:
            self.quarantine.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self.quarantine.open("w", encoding="utf-8")
        json.dump({"file": file, "line": line, "reason": reason}, self._stream)
        self._stream.write("\n")
        self.quarantined += 1
        if self.quarantined > MOST_QUARANTINED:
            raise too_many(file, line, reason)

    def decoded(self, raw: bytes) -> tuple[str, str]:
        """The text of strict UTF-8 bytes, and '' or the reason for refusing it."""
        if len(raw) > self.max_bytes:
            return "", f"{len(raw):,} bytes, more than {self.max_bytes:,}"
        try:
            text = raw.decode()
        except UnicodeDecodeError as problem:
            found = f"byte 0x{raw[problem.start]:02x} at offset {problem.start}"
            return "", f"not UTF-8 ({found}: {problem.reason})"
        return text, unusable(text)

    def close(self) -> None:
        """Makes the list of refused rows durable."""
        if self._stream is not None:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            self._stream = None


def too_many(file: str, line: int, reason: str) -> DataError:
    """What is said of the first row that is one too many."""
    return DataError(
        f"{file}:{line}: more than {MOST_QUARANTINED:,} rows were refused, this one because: "
        f"{reason}. This file is hardly what it was taken for."
    )


def unusable(text: str) -> str:
    """'' for text that every tokenizer takes, else the reason."""
    if "\0" in text:
        return f"a NUL character at offset {text.index(chr(0))} of the text"
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        return f"a lone surrogate U+{ord(text[problem.start]):04X} at offset {problem.start}"
    return ""
