"""The C library's allocator, told what the service's memory is like (glibc alone knows the words).

Left to itself glibc takes from the size of the pieces that were freed what it keeps: after a small
model each tile costs 3,400 page faults in separation and quality alone, after a large one (which
raises the threshold) the arrays of every field come from the arenas of the threads, which do not
shrink below what lies between them. `python -m benchmarks.steady_memory` shows the latter.
"""

import ctypes
import os
from collections.abc import Mapping
from typing import Final

_MIB: Final = 1 << 20
# Numbers of `mallopt` (malloc.h) and their values. Arrays of a tile, up to 12 bytes for each of
# 512x512 pixels, come from an arena; larger ones, of a field, from the system and go back to it. An
# arena keeps up to 16 MiB that are free at its end.
_OPTIONS: Final[Mapping[str, tuple[int, int]]] = {
    "M_ARENA_MAX": (-8, 2),
    "M_MMAP_THRESHOLD": (-3, 3 * _MIB),
    "M_TRIM_THRESHOLD": (-1, 16 * _MIB),
    "M_TOP_PAD": (-2, 4 * _MIB),
}
_OWN_WORDS: Final = "MALLOC_"


def settle_allocator() -> bool:
    """Set up the allocator for a process that segments images.

    Whoever set one of glibc's own variables (`MALLOC_ARENA_MAX`, say) knows better, and is left
    alone.

    Returns:
        Whether that was done.
    """
    if any(name.startswith(_OWN_WORDS) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    taken = [mallopt(number, value) == 1 for number, value in _OPTIONS.values()]
    return all(taken)


def give_back_memory() -> None:
    """Give freed memory back to the system, where the C library can (glibc).

    Loading a model frees as much as it keeps, in pieces that glibc holds on to: after some swaps of
    the embedded model 90 MB that nobody uses.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return
    trim(0)
