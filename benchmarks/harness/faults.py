"""What a fault costs: a part is killed, or refused memory, while three clients keep asking for passages, for the model
alone, and for answers."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Any

from benchmarks.harness.arrivals import Sample, Steady, closed_loop, until
from benchmarks.harness.variants import Variant

QUESTION = "Qual a capital do Brasil?"
MODES: dict[str, dict[str, Any]] = {
    "answer": {"query": QUESTION},
    "retrieve": {"query": QUESTION, "mode": "retrieve"},
    "generate": {"query": QUESTION, "mode": "generate", "max_new_tokens": 4},
}
_STEADY_S = 1.5  # every mode answered, and nothing lost, for so long: that is what healthy means here
_STARVED_S = 4.0
_LONGEST_S = 120.0
_CROWD = 16


def kill(variant: Variant, service: str) -> dict[str, Any]:
    """SIGKILL the process that serves `service`, as the kernel does when memory runs out."""
    pid = variant.worker(service)

    def harm() -> bool:
        os.kill(pid, signal.SIGKILL)
        return until(lambda: not _runs(pid), 5.0) is not None

    return _harm(variant, harm)


def starve(variant: Variant, service: str) -> dict[str, Any]:
    """Let the process that serves `service` allocate nothing more for 4 s, while a crowd asks for long prompts.

    It bit if one of the crowd was not answered; a process that had the memory already shows nothing of its design.
    """
    pid = variant.worker(service)
    soft, hard = resource.prlimit(pid, resource.RLIMIT_AS)
    long = {"query": "palavra " * 400, "mode": "generate", "max_new_tokens": 8}

    def harm() -> bool:
        resource.prlimit(pid, resource.RLIMIT_AS, (int(_status(pid, "VmSize").split()[0]) * 1024, hard))
        ends, lost = time.perf_counter() + _STARVED_S, 0
        while time.perf_counter() < ends:
            samples, _ = closed_loop(variant.url, [long] * _CROWD, _CROWD)
            lost += sum(bool(sample.error) for sample in samples)
        if _runs(pid):  # it may have died of it
            resource.prlimit(pid, resource.RLIMIT_AS, (soft, hard))
        return lost > 0 or not _runs(pid)

    return _harm(variant, harm)


def _harm(variant: Variant, harm: Callable[[], bool]) -> dict[str, Any]:
    """By mode: requests asked and lost, and seconds from the harm to the first answer after the last loss.

    `bit` says whether the harm took place; without it the rest shows nothing. Raises RuntimeError where the variant
    was not healthy to begin with, since a fault on top of another one is neither's figure.
    """
    clients = Steady(variant.url, MODES)
    try:
        began = time.perf_counter()
        if until(lambda: _healthy(clients.samples, began), _LONGEST_S) is None:
            raise RuntimeError(f"{variant.name} was not healthy before the fault")
        harmed = time.perf_counter()
        bit = harm()
        healed = time.perf_counter()
        recovered_s = until(lambda: _healthy(clients.samples, healed), _LONGEST_S)
    finally:
        asked = clients.stop()
    samples = [sample for sample in asked if sample.began + sample.total_s >= harmed]
    return {
        "bit": bit,
        "recovered": recovered_s is not None,
        "modes": {mode: _during(samples, mode, harmed) for mode in MODES},
    }


def _healthy(samples: list[Sample], since: float) -> bool:
    """Whether every mode was answered and nothing lost for the last 1.5 s, all of them after `since`."""
    begin = time.perf_counter() - _STEADY_S
    if begin < since:  # answers from before a fault say nothing about what comes after it
        return False
    recent = [sample for sample in list(samples) if sample.began + sample.total_s >= begin]
    return {sample.mode for sample in recent} == set(MODES) and not any(sample.error for sample in recent)


def _runs(pid: int) -> bool:
    try:
        return not _status(pid, "State").startswith("Z")
    except OSError:
        return False


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
