"""What the C library does with memory that was freed, and how much a process has.

A step frees and takes the same gigabyte again and again.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3) in glibc
# Bytes of a block above which it is mapped by itself each time, and goes back when it is freed.
_LARGEST = 32 * 2**20  # the most that glibc allows
_SMALL = 2 * 2**20
_SELF = Path("/proc/self")


def keep() -> bool:
    """Asks the C library to take large blocks from its heap and to keep what is freed there; says whether it will.

    By itself glibc learns such sizes slowly and gives the top of its heap back, and the next step takes it again with
    a page fault for every 4 kB: system time of a step on a CPU was 0.9 s, and is 0.3 s. Other C libraries are left
    alone.
    """
    return _set(_LARGEST, 8 * _LARGEST)


def give_back() -> bool:
    """Asks the C library to return what is freed at once; says whether it will.

    A heap of blocks of many sizes has holes: a step needed a third more memory at its peak than it used. Mapping each
    large block by itself leaves none, and makes a step a fifth slower.
    """
    return _set(_SMALL, _SMALL)


def trim() -> bool:
    """Returns what is freed but held by the C library now, so that it does not hide what a call needs; says whether it did."""
    if sys.platform != "linux":
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def forget_peak() -> bool:
    """Has Linux forget the most memory that this process had; says whether it did."""
    try:
        (_SELF / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def resident() -> int:
    """Bytes that this process has in memory now; where Linux tells."""
    return _status("VmRSS")


def peak() -> int:
    """The most bytes that it had since `forget_peak`; where Linux tells."""
    return _status("VmHWM")


def _status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = (_SELF / "status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def _set(mapped: int, trimmed: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        return bool(
            library.mallopt(_MMAP_THRESHOLD, mapped) and library.mallopt(_TRIM_THRESHOLD, trimmed)
        )
    except (OSError, AttributeError):
        return False
