"""A corpus that every machine already has: the documentation inside Python itself.

pydoc's topics (the language reference) and the docstrings of the standard library, about two megabytes of
technical English under the PSF licence. Sources are parsed, never imported: some act when imported.
"""

from __future__ import annotations

import ast
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.files import committed, digest, verify
from limbeck.progress import progress

FORMAT = 1
HELD_OUT_PERCENT = 10
FEWEST_CHARACTERS = 100
# Shorter paragraphs ("Raises ValueError.") may come again; longer ones are copies.
SHORTEST_COPY = 80
_SKIPPED = {"test", "tests", "idlelib", "idle_test", "turtledemo", "lib2to3", "ensurepip"} | {
    *("antigravity", "this", "pydoc_data", "site-packages", "__pycache__"),
}


def python_docs(folder: Path) -> Path:
    """Writes train.jsonl and held_out.jsonl, {"text", "where"} a line, divided by document.

    The same for the same Python, differing between Python versions (the manifest names the version). Run
    again, it finds the folder finished, verifies it and leaves it.
    """
    if folder.exists():
        verify(folder)
        return folder
    try:
        from pydoc_data.topics import topics
    except ImportError as missing:
        raise DataError(
            f"{sys.executable}: this Python comes without pydoc_data, its own documentation. "
            "Use a python.org, conda, uv or pyenv build, or your system's full Python package."
        ) from missing
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = list(_documents(topics, root))
    parts = {
        "train": [row for row in rows if not held_out(row["where"])],
        "held_out": [row for row in rows if held_out(row["where"])],
    }
    raw = {name: b"".join(map(_line, part)) for name, part in parts.items()}
    counts = {
        name: {"documents": len(part), "bytes": len(raw[name])} for name, part in parts.items()
    }
    about = {"format": FORMAT, "python": platform.python_version(), "counts": counts}
    about["licence"] = "PSF-2.0"
    with committed(folder, about) as partial:
        for name, data in raw.items():
            (partial / f"{name}.jsonl").write_bytes(data)
    return folder


def held_out(where: str) -> bool:
    """Whether a document is kept for evaluation: a hash of its name, so the same on every machine."""
    return int(digest(where.encode())[:8], 16) % 100 < HELD_OUT_PERCENT


def _line(row: dict[str, str]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _documents(topics: Mapping[str, str], root: Path) -> Iterator[dict[str, str]]:
    """One document a topic and one a module; paragraphs seen before are left out.

    Without that, posixpath's text would be in training and ntpath's, nearly the same, held out.
    """
    seen: set[str] = set()
    for name in sorted(topics):
        text = _fresh(topics[name].strip(), seen) + "\n"
        if len(text) >= FEWEST_CHARACTERS:
            yield {"text": text, "where": f"topic:{name}"}
    paths = _modules(root)
    with progress("read the standard library", len(paths)) as bar:
        for name, path in paths:
            bar.advance()
            parts = [(title, _fresh(body, seen)) for title, body in _docstrings(path, name)]
            text = "\n".join(f"{title}\n\n{body}\n" for title, body in parts if body)
            if len(text) >= FEWEST_CHARACTERS:
                yield {"text": text, "where": f"module:{name}"}


def _fresh(text: str, seen: set[str]) -> str:
    """The text less the paragraphs that came before; '' where only a copied remainder is left."""
    whole = _mark(text)
    if whole in seen:
        return ""
    kept = []
    for paragraph in text.split("\n\n"):
        mark = _mark(paragraph)
        if len(paragraph) < SHORTEST_COPY or mark not in seen:
            kept.append(paragraph)
        seen.add(mark)
    seen.add(whole)
    return "\n\n".join(kept)


def _mark(text: str) -> str:
    # Spaces and case apart: copies differ in their indentation.
    return digest(" ".join(text.split()).lower().encode())


def _modules(root: Path) -> list[tuple[str, Path]]:
    """Dotted name and path of the standard library's modules, sorted by name."""
    found = []
    for path in root.rglob("*.py"):
        parts = list(path.relative_to(root).with_suffix("").parts)
        if parts[0] not in sys.stdlib_module_names or _SKIPPED & set(parts):
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append((name, path))
    return sorted(found)


def _docstrings(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of a module and of what it defines, in the order of the source."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Some installations carry templates and files of other Pythons beside the library.
        return
    yield from _inside(tree, name)


def _inside(node: Any, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and _is_unicode(text):
        yield name, text
    for inner in node.body:
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _inside(inner, f"{name}.{inner.name}")


def _is_unicode(text: str) -> bool:
    # A docstring can spell half of a surrogate pair, and a NUL; no tokenizer takes either.
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
