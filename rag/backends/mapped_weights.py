"""Weights in a memory-mapped file, so that the kernel may drop their pages and read them again.

OpenVINO packs most weights into a second copy when it compiles, and keeps the originals. In a mapped file the originals
take no memory that another process could use: those of a float32 checkpoint are mapped already, others are written out
here.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import shutil
import tempfile
from bisect import bisect_right
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

_log = logging.getLogger(__name__)

_ALIGNMENT_BYTES = 64
_MADV_PAGEOUT = 21  # drops clean file pages; unlike MADV_DONTNEED it can't lose data


class Span(NamedTuple):
    """The address range of a tensor."""

    address: int
    nbytes: int


def float_on_disk(model: Any) -> list[Span]:
    """Convert the parameters of `model` to float32 in place, in a mapped file; returns their addresses.

    Tensor by tensor, so that no more than one is in memory twice. The file is deleted with the process; where the disk
    has no room for it, the weights stay in memory. Raises OSError where writing fails.
    """
    backed = _FileMappings()
    codes = [buffer for buffer in model.buffers() if buffer.dtype == torch.int8]
    moving = [
        tensor
        for tensor in (*model.parameters(), *codes)
        if not (backed.hold(tensor) and tensor.dtype in (torch.float32, torch.int8))
    ]
    wanted_bytes = sum(tensor.numel() * (4 if tensor.is_floating_point() else 1) for tensor in moving)
    if shutil.disk_usage(tempfile.gettempdir()).free > 1.1 * wanted_bytes:
        _move(moving)
    else:
        _log.warning("%s has no room for %d bytes: the weights stay in memory", tempfile.gettempdir(), wanted_bytes)
        model.float()
    return [Span(tensor.data_ptr(), tensor.nbytes) for tensor in (*model.parameters(), *model.buffers())]


def page_out(spans: list[Span]) -> None:
    """Give these pages, and memory freed since loading, back to the kernel; no effect where it lacks MADV_PAGEOUT."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc, which keeps freed memory otherwise
        libc.malloc_trim(0)
    for address, nbytes in spans:
        start = address - address % mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(address + nbytes - start), _MADV_PAGEOUT)


def _move(tensors: list[torch.Tensor]) -> None:
    moved = []
    with tempfile.TemporaryFile() as file:
        for tensor in tensors:
            values = (tensor.detach().float() if tensor.is_floating_point() else tensor.detach()).contiguous().numpy()
            offset = file.seek(-(-file.tell() // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES)
            file.write(values.tobytes())
            moved.append((tensor, offset, values.dtype, values.shape))
            tensor.data = torch.empty(0)
        if not moved:
            return
        file.flush()
        # Copy on write, though nothing writes: torch warns about read-only memory.
        mapped = np.memmap(file, dtype=np.uint8, mode="c")
    for tensor, offset, dtype, shape in moved:
        tensor.data = torch.from_numpy(np.ndarray(shape, dtype, mapped.data, offset))


class _FileMappings:
    """The parts of this process's memory that are mapped from files."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            span, _, _, _, inode, *_ = line.split()
            if inode != "0":
                start, _, end = span.partition("-")
                self._starts.append(int(start, 16))
                self._ends.append(int(end, 16))

    def hold(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` is in one of them."""
        index = bisect_right(self._starts, tensor.data_ptr()) - 1
        return index >= 0 and tensor.data_ptr() < self._ends[index]
