"""What the C library does with memory that was freed: a step frees and takes the same gigabyte again and again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3) in glibc
# Bytes of a block above which it is mapped by itself each time, and goes back when it is freed.
_LARGEST = 32 * 2**20  # the most that glibc allows
_SMALL = 2 * 2**20


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
