"""What a fault costs: a part is killed, or refused memory, while three clients keep asking for passages, for the model
alone, and for answers."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from benchmarks.arrivals import Sample, Steady, until
from benchmarks.variants import Variant

QUESTION = "Qual a capital do Brasil?"
MODES: dict[str, dict[str, Any]] = {
    "answer": {"query": QUESTION},
    "retrieve": {"query": QUESTION, "mode": "retrieve"},
    "generate": {"query": QUESTION, "mode": "generate", "max_new_tokens": 4},
}
_BEFORE_S, _AFTER_S = 1.0, 1.0
_STARVED_S = 4.0
_LONGEST_S = 60.0
# Room for what is small: threads and buffers, but no large tensor.
_ROOM_BYTES = 256 << 20


def kill(variant: Variant, service: str) -> dict[str, Any]:
    """SIGKILL the process that serves `service`, as the kernel does when memory runs out."""
    return _harm(variant, lambda: os.kill(variant.worker(service), signal.SIGKILL), lambda: None)


def starve(variant: Variant, service: str) -> dict[str, Any]:
    """Let the process that serves `service` allocate no more than 256 MiB for 4 s: what is larger fails."""
    pid = variant.worker(service)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    held_bytes = int(_status(pid, "VmSize").split()[0]) * 1024

    def take() -> None:
        resource.prlimit(pid, resource.RLIMIT_AS, (held_bytes + _ROOM_BYTES, hard))
        time.sleep(_STARVED_S)

    def give_back() -> None:
        if os.path.exists(f"/proc/{pid}"):  # noqa: PTH110 - it may have died of it
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))

    return _harm(variant, take, give_back)


def _harm(variant: Variant, harm: Callable[[], None], heal: Callable[[], None]) -> dict[str, Any]:
    """By mode: requests asked, lost, and the longest time without an answer, from the harm to the recovery of all."""
    clients = Steady(variant.url, MODES)
    time.sleep(_BEFORE_S)
    harmed = time.perf_counter()
    harm()
    heal()
    recovered_s = until(lambda: _all_answered_since(clients.samples, time.perf_counter() - 1.0), _LONGEST_S)
    time.sleep(_AFTER_S)
    samples = [sample for sample in clients.stop() if sample.began + sample.total_s >= harmed]
    return {
        "recovered": recovered_s is not None,
        "modes": {mode: _during(samples, mode, harmed) for mode in MODES},
    }


def _all_answered_since(samples: list[Sample], since: float) -> bool:
    recent = [sample for sample in list(samples) if sample.began >= since]
    return {sample.mode for sample in recent} == set(MODES) and not any(sample.error for sample in recent)


def _during(samples: list[Sample], mode: str, harmed: float) -> dict[str, Any]:
    mine = [sample for sample in samples if sample.mode == mode]
    lost = [sample for sample in mine if sample.error]
    last_s = max((sample.began + sample.total_s for sample in lost), default=harmed) - harmed
    after = [sample.began + sample.total_s - harmed for sample in mine if not sample.error]
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
