"""What every test shares: no hub, and a loopback that works even in a bare network namespace."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Machines differ in speed, so no example has a deadline; continuous integration draws the same examples every time.
hypothesis.settings.register_profile("project", deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.load_profile("project")

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, for -m."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in ("integration", "contract"):
            item.add_marker(folder)


def _raise_loopback() -> None:
    """`unshare -n make test` starts with the loopback down; whoever may create a namespace may also raise it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        if not flags & _IFF_UP:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


_raise_loopback()
