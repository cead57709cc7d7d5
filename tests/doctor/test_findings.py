"""A check that ends in any exception is a fault of that check, and hides nothing of another."""

import pytest

from limbeck.doctor.findings import attempted, ok, once
from limbeck.errors import ModelError


class PanicException(BaseException):
    """As libraries in Rust raise it, which is no Exception."""


def ends_with(reason):
    """A check that finds one thing and then ends in an exception."""

    def check():
        yield ok("one")
        raise reason

    return check


@pytest.mark.parametrize(
    "kind", [KeyError, ZeroDivisionError, TypeError, Exception, PanicException]
)
def test_any_exception_is_a_fault_that_names_it(kind):
    first, last = attempted("teacher", ends_with(kind("of a library")))
    assert first.severity == "ok"
    assert (last.severity, last.where) == ("fault", "teacher")
    assert last.found.startswith(f"this check itself broke: {kind.__name__}: ")
    assert "of a library" in last.found


def test_what_was_foreseen_is_told_as_it_is():
    found = [list(attempted("", ends_with(one)))[-1] for one in (ModelError("a"), OSError(13, "b"))]
    assert [(one.severity, one.found) for one in found] == [("fault", "a"), ("fault", "b")]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_who_ends_the_process_ends_it(kind):
    with pytest.raises(kind):
        list(attempted("", ends_with(kind())))


def test_what_broke_once_is_told_once_and_then_missing():
    calls = []

    def make():
        calls.append(1)
        raise ZeroDivisionError("of a config")

    shape = once("the shape", make)
    found = [next(iter(attempted("", lambda: [ok(shape())]))) for _ in range(3)]
    assert [one.severity for one in found] == ["fault", "left out", "left out"]
    assert "it needs the shape, which is not sound" in found[1].found
    assert len(calls) == 1
