"""The resident memory of this process, and glibc malloc settings that keep it from growing."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_ARENAS = 2


def resident_bytes() -> int:
    """Resident memory of this process, pages of mapped files included."""
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")


def share_arenas() -> None:
    """Make all threads allocate from two arenas; to be called before they start.

    glibc uses up to eight arenas a core, and memory freed in one can't be reused by the others.
    """
    _call("mallopt", _M_ARENA_MAX, _ARENAS)


def trim_memory() -> None:
    """Return free memory to the system: loading leaves much of it, from tracing the graph and reading the weights."""
    gc.collect()
    _call("malloc_trim", 0)


def keep_freed_memory() -> None:
    """Keep freed memory for the next allocation: a training step frees and allocates the same gigabyte repeatedly.

    By default glibc returns large blocks to the system, which zeroes each page again when it is allocated.
    """
    _call("mallopt", _M_MMAP_MAX, 0)
    _call("mallopt", _M_TRIM_THRESHOLD, 2**31 - 1)


def _call(name: str, *arguments: int) -> None:
    function: Any = getattr(ctypes.CDLL(None), name, None)
    if function is not None:  # other C libraries lack these functions
        function(*arguments)
