"""What this process holds of the machine's memory, and how to hold no more than it uses (glibc's malloc)."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ARENAS = 2


def resident_bytes() -> int:
    """Memory of this process that lies in RAM, pages of mapped files included."""
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def share_arenas() -> None:
    """Have all threads allocate from two arenas; to be called before they start.

    glibc gives threads up to eight arenas a core, and what was freed in one is of no use to the others.
    """
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Return to the system what is free: loading leaves traces of the graph and weights as they were read."""
    gc.collect()
    _call("malloc_trim", 0)


def keep() -> None:
    """Keep what is freed for what is taken next: a training step frees and takes the same gigabyte again and again.

    glibc returns large pieces to the system and gets each page anew, filled with zeros.
    """
    _call("mallopt", _M_MMAP_MAX, 0)
    _call("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:  # another C library has other ways
        function(*arguments)
