"""What this machine or container may use: memory by cgroup and /proc/meminfo, processors by CPU affinity."""

from __future__ import annotations

import os
from pathlib import Path

from capacity.errors import CapacityError

# A cgroup without a limit reports a number near 2⁶³ (version 1) or the word max (version 2).
_NO_LIMIT = 2**60


def memory_bytes(root: Path = Path("/")) -> tuple[int, str]:
    """(bytes, source): the smallest of the machine's memory and the limits of this process's control groups."""
    found = [(_total(root), "/proc/meminfo MemTotal")]
    for path in _limit_files(root):
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit() and 0 < int(text) < _NO_LIMIT:
            found.append((int(text), f"/{path.relative_to(root)}"))
    return min(found)


def _limit_files(root: Path) -> list[Path]:
    mount = root / "sys/fs/cgroup"
    files = [mount / "memory.max", mount / "memory/memory.limit_in_bytes"]
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return files
    for line in lines:
        group = line.partition("::")[2].strip("/")
        while group:  # a limit of any ancestor applies too
            files.append(mount / group / "memory.max")
            group = group.rpartition("/")[0]
    return files


def _total(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except OSError as error:
        raise CapacityError(f"/proc/meminfo: can't be read: {error.strerror}; give --memory-gib") from error
    raise CapacityError("/proc/meminfo: no MemTotal line; give --memory-gib")


def processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
