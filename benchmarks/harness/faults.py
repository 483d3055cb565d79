"""Fault injection: a process is killed, or its allocations fail, while three clients keep sending requests.

The clients use one mode each: retrieval, generation, and answers.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

from benchmarks.harness.arrivals import BackgroundClients, RequestSample, closed_loop, until
from benchmarks.harness.variants import RunningVariant

QUESTION = "Qual a capital do Brasil?"
MODES: dict[str, dict[str, Any]] = {
    "answer": {"query": QUESTION},
    "retrieve": {"query": QUESTION, "mode": "retrieve"},
    "generate": {"query": QUESTION, "mode": "generate", "max_new_tokens": 4},
}
_STEADY_S = 1.5  # a variant is healthy if for this long every mode was answered and no request was lost
_LIMITED_S = 4.0
_LONGEST_S = 120.0
_CLIENTS = 16


def all_faults(variant: RunningVariant) -> dict[str, Any]:
    """The figures of each fault. In a monolith, one process serves everything, and every fault hits that one."""
    figures: dict[str, Any] = {}
    faults = (
        ("llm_killed", kill, "llm"),
        ("vector_killed", kill, "vector"),
        ("memory_refused", limit_memory, "llm"),
    )
    for fault, inject, service in tqdm(faults, desc=f"faults, {variant.name}", unit="fault"):
        figures[fault] = inject(variant, "monolith" if variant.name == "monolith" else service)
    return figures


def kill(variant: RunningVariant, service: str) -> dict[str, Any]:
    """SIGKILL the process that serves `service`, like the kernel's OOM killer."""
    pid = variant.worker(service)

    def inject() -> bool:
        os.kill(pid, signal.SIGKILL)
        return until(lambda: not _runs(pid), 5.0) is not None

    return _inject(variant, inject)


def limit_memory(variant: RunningVariant, service: str) -> dict[str, Any]:
    """Make allocations fail in the process that serves `service` for 4 s, while 16 clients send long prompts.

    The fault had an effect if one of those requests failed; otherwise the process had all the memory it needed, and the
    figures show nothing about its design.
    """
    pid = variant.worker(service)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    long = {"query": "palavra " * 400, "mode": "generate", "max_new_tokens": 8}

    def inject() -> bool:
        resource.prlimit(pid, resource.RLIMIT_AS, (int(_status(pid, "VmSize").split()[0]) * 1024, hard))
        ends, lost = time.perf_counter() + _LIMITED_S, 0
        while time.perf_counter() < ends:
            samples, _ = closed_loop(variant.url, [long] * _CLIENTS, _CLIENTS)
            lost += sum(bool(sample.error) for sample in samples)
        if _runs(pid):  # the failed allocation may have ended it
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))
        return lost > 0 or not _runs(pid)

    return _inject(variant, inject)


def _inject(variant: RunningVariant, inject: Callable[[], bool]) -> dict[str, Any]:
    """By mode: requests sent and lost, and seconds from the fault to the first answer after the last loss.

    `bit` is whether the fault had an effect; without one the figures show nothing. Raises RuntimeError if the variant
    was not healthy before the fault.
    """
    clients = BackgroundClients(variant.url, MODES)
    try:
        began = time.perf_counter()
        if until(lambda: _healthy(clients.samples, began), _LONGEST_S) is None:
            raise RuntimeError(f"{variant.name} was not healthy before the fault")
        injected = time.perf_counter()
        effective = inject()
        ended = time.perf_counter()
        recovered_s = until(lambda: _healthy(clients.samples, ended), _LONGEST_S)
    finally:
        sent = clients.stop()
    samples = [sample for sample in sent if sample.began + sample.total_s >= injected]
    return {
        "bit": effective,
        "recovered": recovered_s is not None,
        "modes": {mode: _during(samples, mode, injected) for mode in MODES},
    }


def _healthy(samples: list[RequestSample], since: float) -> bool:
    """Whether every mode was answered and no request lost in the last 1.5 s, counted from `since` at the earliest."""
    begin = time.perf_counter() - _STEADY_S
    if begin < since:  # answers from before the fault are no evidence of recovery
        return False
    recent = [sample for sample in list(samples) if sample.began + sample.total_s >= begin]
    return {sample.mode for sample in recent} == set(MODES) and not any(sample.error for sample in recent)


def _runs(pid: int) -> bool:
    try:
        return not _status(pid, "State").startswith("Z")
    except OSError:
        return False


def _during(samples: list[RequestSample], mode: str, injected: float) -> dict[str, Any]:
    mine = [sample for sample in samples if sample.mode == mode]
    lost = [sample for sample in mine if sample.error]
    last_s = max((sample.began + sample.total_s for sample in lost), default=injected) - injected
    after = [sample.began + sample.total_s - injected for sample in mine if not sample.error]
    out_s = min((second for second in after if second >= last_s), default=last_s) if lost else 0.0
    return {
        "asked": len(mine),
        "lost": len(lost),
        "out_s": round(out_s, 3),
        "errors": sorted({sample.error for sample in lost}),
    }


def _status(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:  # noqa: PTH123 - a pseudo-file
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))
