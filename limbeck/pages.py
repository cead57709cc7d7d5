"""What the C library does with memory that was freed: a step frees and takes the same gigabyte again and again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3) in glibc
_LARGEST = (
    32 * 2**20
)  # bytes of a block that glibc at most takes from its heap; larger ones are mapped each time


def keep() -> bool:
    """Asks the C library to take large blocks from its heap and to keep what is freed there; says whether it will.

    By itself glibc learns such sizes slowly and gives the top of its heap back, and the next step takes it again with
    a page fault for every 4 kB: system time of a step on a CPU was 0.9 s, and is 0.3 s. Other C libraries are left
    alone.
    """
    if sys.platform != "linux":
        return False
    try:
        library = ctypes.CDLL(None)
        return bool(
            library.mallopt(_MMAP_THRESHOLD, _LARGEST)
            and library.mallopt(_TRIM_THRESHOLD, 8 * _LARGEST)
        )
    except (OSError, AttributeError):
        return False
