"""LLaMA-Factory's dataset_info.json: where each data set lies, and what its columns and roles are called."""

from __future__ import annotations

import difflib
import itertools
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from limbeck.data.inputs import walked
from limbeck.errors import Damaged, DataError
from limbeck.files import read_json

FILE = "dataset_info.json"
# What LLaMA-Factory takes where an entry is silent.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_SHAREGPT = {"messages": "conversations"}
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_SIDES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function_call",
    "system_tag": "system",
}
# Where a name of theirs stands for a name of a layout here.
_INSTRUCTION = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
    "tools": "tools",
}
_KEPT = ("system", "tools")
_KNOWN = {
    *("file_name", "hf_hub_url", "formatting", "columns", "tags", "subset", "split", "num_samples"),
    *("folder", "ms_hub_url", "om_hub_url"),
}
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WORD = re.compile(r"\w[^/]*")
_REFUSED = {
    "script_url": "names code to run",
    "ranking": "holds rankings, and only one answer is learned",
    "cloud_file_name": "lies in a cloud store; copy it here and give file_name",
}


@dataclass(frozen=True)
class Entry:
    """One data set. path: a file, a folder or a name on the Hub; split: of the last two."""

    path: str
    formatting: str = "alpaca"
    columns: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    most: int | None = None

    @property
    def layout(self) -> str:
        """The layout of the rows that `renamed` gives."""
        return "instruction" if self.formatting == "alpaca" else "messages"

    def key(self) -> dict[str, Any]:
        """What of it changes the rows, for the key that they are kept under."""
        return {name: value for name, value in asdict(self).items() if name != "path"}

    def renamed(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row under the names of a layout."""
        if self.formatting == "alpaca":
            columns = _ALPACA | self.columns
            wanted = {_INSTRUCTION[theirs]: column for theirs, column in columns.items()}
            found = {ours: row[column] for ours, column in wanted.items() if column in row}
        else:
            columns = _SHAREGPT | self.columns
            found = {name: row[columns[name]] for name in _KEPT if row.get(columns.get(name, ""))}
            found["messages"] = self._messages(row.get(columns["messages"]), columns["messages"])
        return found | {name: row[name] for name in ("weight",) if name in row}

    def _messages(self, given: Any, column: str) -> list[dict[str, Any]]:
        if not isinstance(given, list):
            raise DataError(f"column '{column}' is {type(given).__name__}, not a list")
        tags = _TAGS | self.tags
        names = {tags[tag]: role for tag, role in _SIDES.items()}
        found = []
        for number, one in enumerate(given):
            said = one.get(tags["role_tag"]) if isinstance(one, dict) else None
            if not isinstance(said, str) or said not in names:
                raise DataError(
                    f"{column}[{number}] is of {ascii(said)[:60]}, which is no tag of the data set. "
                    f"Wanted: {', '.join(names)}"
                )
            found.append(
                {"role": names[said], "content": one.get(tags["content_tag"])}
                | {key: one[key] for key in ("weight",) if key in one}
            )
        return found


def entry(file: Path, name: str) -> Entry:
    """The entry of this name; what it asks for and cannot be given is refused."""
    try:
        whole = read_json(file)
    except (OSError, Damaged) as reason:
        raise DataError(f"{file}: cannot be read ({reason}).") from reason
    if not isinstance(whole, dict) or not isinstance(whole.get(name), dict):
        names = [key for key in whole if isinstance(key, str)] if isinstance(whole, dict) else []
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise DataError(
            f"{file}: no data set '{name}'.{hint} There are: {', '.join(one[:40] for one in names[:40]) or 'none'}. Correct 'dataset'."
        )
    return _entry(whole[name], f"{file}, '{name}'", file.parent)


def _entry(given: dict[str, Any], where: str, folder: Path) -> Entry:
    for key, reason in _REFUSED.items():
        if given.get(key):
            raise DataError(f"{where}: '{key}' {reason}. Take another data set.")
    unknown = sorted(set(given) - _KNOWN - set(_REFUSED))
    if unknown:
        raise DataError(
            f"{where}: {ascii(unknown[0])[:80]} is not understood. Wanted: {', '.join(sorted(_KNOWN))}."
        )
    formatting = given.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise DataError(
            f"{where}: formatting is {ascii(formatting)[:80]}. Wanted: alpaca, sharegpt or openai."
        )
    columns = _names(given.get("columns", {}), _INSTRUCTION | {"messages": ""}, f"{where}: columns")
    tags = _names(given.get("tags", {}), _TAGS, f"{where}: tags")
    if formatting == "openai":
        columns = {"messages": "messages"} | columns
        openai = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
        openai |= {"assistant_tag": "assistant", "observation_tag": "tool"}
        tags = openai | tags
    names = [(_TAGS | tags)[tag] for tag in _SIDES]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two of its tags are one word, of {ascii(names)[:200]}.")
    most = _most(given.get("num_samples"), where)
    split = _word(given, "split", where)
    path = _path(given, where, folder)
    return Entry(path, formatting, columns, tags, split, most)


def _most(given: Any, where: str) -> int | None:
    if given is None or (type(given) is int and given > 0):
        return given
    raise DataError(
        f"{where}: num_samples is {ascii(given)[:80]}. Wanted: a whole number, 1 or more."
    )


def _word(given: dict[str, Any], key: str, where: str) -> str | None:
    """What is put into a name or a path: no more than one word of it."""
    found = given.get(key)
    if found is None or (isinstance(found, str) and _WORD.fullmatch(found)):
        return found
    raise DataError(f"{where}: {key} is {ascii(found)[:80]}. Wanted: a name.")


def _names(given: Any, known: dict[str, str], where: str) -> dict[str, str]:
    if not isinstance(given, dict):
        raise DataError(f"{where}: found {type(given).__name__}; wanted a mapping of names.")
    for key, value in given.items():
        if key not in known or not isinstance(value, str):
            raise DataError(
                f"{where}: {ascii({key: value})[:80]} is not understood. Wanted a name for one of: {', '.join(known)}."
            )
    return given


def _path(given: dict[str, Any], where: str, folder: Path) -> str:
    """The file beside dataset_info.json; it may not lead out of that folder."""
    name, hub = given.get("file_name"), given.get("hf_hub_url")
    if hub and not name:
        if not isinstance(hub, str) or not _HUB.fullmatch(hub):
            raise DataError(f"{where}: hf_hub_url is {ascii(hub)[:80]}. Wanted: 'owner/name'.")
        subset = _word(given, "subset", where)
        return f"{hub}:{subset}" if subset else hub
    if not name or not isinstance(name, str):
        raise DataError(f"{where}: no file_name, and no hf_hub_url. Wanted one of them.")
    path, shown = folder / name, ascii(name)[:200]
    try:
        if not path.exists() and any(mark in name for mark in "*?["):
            raise DataError(f"{where}: file_name {shown} is a pattern. Wanted: one file or folder.")
        # Links inside a folder lead as far as a path does.
        inside = itertools.chain([path], walked(path) if path.is_dir() else [])
        out = any(not one.resolve().is_relative_to(folder.resolve()) for one in inside)
    except (OSError, ValueError, RuntimeError) as reason:  # a loop of links, no name of a file
        raise DataError(f"{where}: file_name {shown} is no place ({reason}).") from reason
    if out:
        raise DataError(
            f"{where}: file_name {shown} leads out of {folder}. Wanted: a file beside {FILE}."
        )
    return str(path)
