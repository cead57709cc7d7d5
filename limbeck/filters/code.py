"""Code: answers whose code fences are broken, or whose Python does not parse."""

import ast
import re
import textwrap
import warnings
from collections.abc import Sequence

from limbeck.filters._rows import Row

# A fence of three or more backticks or tildes; its language is the first word behind it.
_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})[ \t]*(?P<said>[^\n]*)$")
_PYTHON = ("python", "py", "python3")
_LARGEST = 200_000


def code(
    rows: Sequence[Row],
    *,
    required: bool = False,
    unless: dict[str, tuple[str, ...]] | None = None,
) -> list[str]:
    """A reason for each row with a fence that is never closed, or with Python in a fence that is no Python.

    required: wants a fence with something in it, but `unless` a key of the row, such as category, has one of these values.
    Of other languages only the fences are looked at. Python is read by this Python, and never run.
    """
    spared = unless or {}
    return [
        _reason(
            row["response"],
            required=required
            and not any(str(row.get(key)) in values for key, values in spared.items()),
        )
        for row in rows
    ]


def _reason(text: str, *, required: bool) -> str:
    found, open_ = blocks(text)
    if open_:
        return "a code fence that is never closed"
    for language, body in found:
        if language in _PYTHON and (problem := _no_python(body)):
            return f"Python that does not parse: {problem}"
    if required and not any(body.strip() for _, body in found):
        return "no code"
    return ""


def blocks(text: str) -> tuple[list[tuple[str, str]], bool]:
    """(language, body) of each closed code fence, as CommonMark has them, and whether the last one is open."""
    found: list[tuple[str, str]] = []
    fence, language, body = "", "", list[str]()
    for line in text.split("\n"):
        match = _FENCE.match(line.rstrip("\r"))
        if not fence:
            # Backticks behind backticks are code inside of a line.
            if match and not (match["fence"][0] == "`" and "`" in match["said"]):
                fence, body = match["fence"], []
                language = (
                    match["said"].strip().split(maxsplit=1)[0].lower()
                    if match["said"].strip()
                    else ""
                )
        elif (
            match
            and match["fence"][0] == fence[0]
            and len(match["fence"]) >= len(fence)
            and not match["said"].strip()
        ):
            found.append((language.strip("{}."), "\n".join(body)))
            fence = ""
        else:
            body.append(line)
    return found, bool(fence)


def _no_python(body: str) -> str:
    """Why this is no Python, or ''."""
    if len(body) > _LARGEST:
        return f"{len(body):,} characters, too long to be read"
    lines = textwrap.dedent(body).split("\n")  # a fence in a list stands further right
    if any(line.lstrip().startswith(">>>") for line in lines):
        # A session: what was typed is code, what stands between is what came of it.
        lines = [line.lstrip()[4:] for line in lines if line.lstrip().startswith((">>>", "..."))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as of "\d" in a string
            ast.parse("\n".join(lines))
    except SyntaxError as reason:
        return f"{reason.msg} (line {reason.lineno})"
    except (ValueError, RecursionError, MemoryError) as reason:
        return type(reason).__name__
    return ""
