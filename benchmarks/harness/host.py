"""The machine of a benchmark: processor, read bandwidth, FLOP/s, and the faster dtype."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

_READ_BYTES = 1 << 30
_SIDE = 512
_PRODUCT_SIDE = 1024


def describe() -> dict[str, Any]:
    """Processor, cores and instruction set, for the JSON line of every benchmark."""
    facts = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if ":" in line
    )
    named = {name.strip(): value.strip() for name, value in facts.items()}
    flags = named.get("flags", "").split()
    widest = next((name for name in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if name in flags), "")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": named.get("model name", ""),
        "cores": len(os.sched_getaffinity(0)),
        "instructions": widest,
        "gpu": gpu,
        "torch": torch.__version__,
    }


def machine_line(machine: dict[str, Any]) -> str:
    """One line for a table's title."""
    return machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']} ({machine['instructions']})"


def read_bytes_per_s(repeats: int = 5) -> float:
    """Sequential read bandwidth of all cores (or the GPU): the best of `repeats` sums over 1 GiB."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    block = torch.ones(_READ_BYTES // 4, dtype=torch.float32, device=device)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        float(block.sum())  # float() waits for the device
        seconds.append(time.perf_counter() - began)
    return _READ_BYTES / min(seconds)


def multiply_flops_per_s(repeats: int = 7) -> float:
    """Peak float32 FLOP/s of the cores (or the GPU): the best of `repeats` products of square matrices."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(_PRODUCT_SIDE, _PRODUCT_SIDE, device=device)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        seconds.append(time.perf_counter() - began)
    return 2 * _PRODUCT_SIDE**3 / min(seconds)


def fastest_dtype() -> tuple[str, float]:
    """The dtype to serve in, and bfloat16's speed in a matrix product relative to float32's."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(_SIDE, _SIDE, dtype=dtype, device=device)
        float((matrix @ matrix)[0, 0])
        began = time.perf_counter()
        for _ in range(3):
            float((matrix @ matrix)[0, 0])
        seconds[dtype] = time.perf_counter() - began
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    return ("bfloat16" if ratio > 1 else "float32"), ratio
