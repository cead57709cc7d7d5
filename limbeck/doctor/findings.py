"""What a check finds: how bad it is, where, what was wanted and what to do; and what is made once for all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from limbeck.errors import LimbeckError

Severity = Literal["ok", "note", "warning", "fault", "left out"]
T = TypeVar("T")
_PANIC = "PanicException"
"""Of the libraries in Rust: what they raise where they find a mistake of their own, and no Exception."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found. lines: what shows it, such as tokens side by side. check: who found it."""

    severity: Severity
    found: str
    where: str = ""
    wanted: str = ""
    cure: str = ""
    lines: tuple[str, ...] = ()
    check: str = ""


Findings = Iterator[Finding]


class Missing(LimbeckError):
    """Something that a check needs, of which another one has said already why it is not there."""


def ok(found: str, where: str = "") -> Finding:
    """What is as it should be."""
    return Finding("ok", found, where)


def note(found: str, where: str = "", *, cure: str = "") -> Finding:
    """What is worth knowing, and may be meant."""
    return Finding("note", found, where, cure=cure)


def warning(
    found: str, where: str = "", *, wanted: str = "", cure: str = "", lines: Iterable[str] = ()
) -> Finding:
    """What is hardly meant, though a run would not be refused for it."""
    return Finding("warning", found, where, wanted, cure, tuple(lines))


def fault(
    found: str, where: str = "", *, wanted: str = "", cure: str = "", lines: Iterable[str] = ()
) -> Finding:
    """What ends a run, or spoils it."""
    return Finding("fault", found, where, wanted, cure, tuple(lines))


def broke(reason: BaseException, where: str = "") -> Finding:
    """The fault of a check that ended in an exception. Raises what is no fault: that this process is to end."""
    if isinstance(reason, Missing):
        return Finding("left out", str(reason), where)
    if isinstance(reason, LimbeckError):
        return fault(str(reason), where)
    if isinstance(reason, OSError):
        name = f"{reason.filename}: " if reason.filename else ""
        return fault(f"{name}{reason.strerror or reason}", where)
    kind = type(reason)
    if not isinstance(reason, Exception) and kind.__name__ != _PANIC:
        raise reason
    cure = (
        "What it looks at is of no kind that it knows: correct that, and report what stands here."
    )
    return fault(f"this check itself broke: {kind.__name__}: {reason}", where, cure=cure)


def attempted(where: str, ask: Callable[[], Iterable[Finding]]) -> Findings:
    """What is found; what was refused on the way is a fault, and ends nothing but this."""
    try:
        yield from ask()
    except BaseException as reason:  # whatever a library may raise: no check hides what others find
        yield broke(reason, where)


def once(what: str, make: Callable[[], T]) -> Callable[[], T]:
    """The same as `make`, called once. Where it raised, the first who asked is told why, and the others that it is missing."""
    made: list[T] = []
    failed = False

    def found() -> T:
        nonlocal failed
        if failed:
            raise Missing(f"not looked at: it needs {what}, which is not sound.")
        if not made:
            try:
                made.append(make())
            except BaseException:  # whatever it was, it is told to the one who asked
                failed = True
                raise
        return made[0]

    return found
