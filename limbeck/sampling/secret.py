"""A secret: taken from the environment alone, and replaced by its name wherever text is written."""

from __future__ import annotations

import base64
import json
import os
import re
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from limbeck.errors import LimbeckError

NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")
_SHORTEST = 8
_VALUE = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True)
class Secret:
    """The value of an environment variable. It is in no representation, and `hide` takes it out of what is written."""

    name: str = ""
    value: str = field(default="", repr=False)

    def hide(self, given: Any) -> Any:
        """The same text, list or mapping, with [NAME] for the value, however it is spelled in there."""
        if isinstance(given, dict):
            return {self.hide(key): self.hide(value) for key, value in given.items()}
        if isinstance(given, list | tuple):
            return [self.hide(value) for value in given]
        if not isinstance(given, str) or not self.value:
            return given
        for spelled in self._spellings():
            given = given.replace(spelled, f"[{self.name}]")
        return given

    def _spellings(self) -> list[str]:
        raw = self.value.encode()
        found = {
            self.value,
            urllib.parse.quote(self.value, safe=""),
            json.dumps(self.value)[1:-1],
            base64.b64encode(raw).decode(),
            base64.urlsafe_b64encode(raw).decode(),
        }
        return sorted(found, key=len, reverse=True)


def from_environment(name: str | None) -> Secret:
    """The secret of that name, checked so that it can stand in a header. No name: a secret that hides nothing."""
    if name is None:
        return Secret()
    value = os.environ.get(name, "").strip()
    if not value:
        raise LimbeckError(
            f"teacher: the environment variable {name} is not set. Put the key into it and run again."
        )
    if len(value) < _SHORTEST or not _VALUE.fullmatch(value):
        raise LimbeckError(
            f"teacher: what the environment variable {name} holds is no key: wanted at least {_SHORTEST} printable "
            "characters without spaces."
        )
    return Secret(name, value)
