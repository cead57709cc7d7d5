"""A generation of a few prompts from a teacher on loopback."""

import json
import os
from pathlib import Path

import pytest
import yaml

from limbeck.errors import LimbeckError
from limbeck.generating import command

CANARY = "canary-7f/3+a=secret"


def prompts(place: Path, count: int) -> Path:
    path = place / "prompts.jsonl"
    rows = [
        {"prompt": f"What is {number}?", "category": "numbers", "language": "en"}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tree(
    place: Path,
    url: str,
    *,
    count: int = 12,
    shape: str = "openai",
    whole=None,
    whole_prompts=None,
    **changes,
) -> dict:
    """The plain data of one, with changes merged in. whole, whole_prompts: in the place of teacher and prompts."""
    plain = {
        "name": "tiny",
        "teacher": whole or {shape: {"url": url, "model": "tiny"}},
        "prompts": whole_prompts or {"file": str(prompts(place, count))},
        "sampling": {"max_tokens": 5},
        "limits": {"concurrency": 4, "first_wait": 0.001, "seconds_per_request": 5},
        "held_out": 0.3,
        "output": str(place / "out"),
    }
    for key, value in changes.items():
        plain[key] = {**plain[key], **value} if isinstance(plain.get(key), dict) else value
    return plain


def written(place: Path, url: str, **changes) -> Path:
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree(place, url, **changes)))
    return path


def run(path: Path, *overrides: str, dry_run: bool = False) -> str:
    return command.generate(path, overrides, dry_run=dry_run)


def refused(path: Path, *overrides: str) -> str:
    """What a run that does not end well says."""
    with pytest.raises(LimbeckError) as found:
        run(path, *overrides)
    return str(found.value)


def rows(place: Path, name: str) -> list[dict]:
    path = place / "out" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def answers(place: Path) -> list[dict]:
    return rows(place, "train") + rows(place, "held_out")


def everything(place: Path) -> bytes:
    """Every byte of every file below a folder, and every file's name."""
    found = [b""]
    for root, _, names in os.walk(place):
        for name in names:
            found += [name.encode(), (Path(root) / name).read_bytes()]
    return b"\n".join(found)
