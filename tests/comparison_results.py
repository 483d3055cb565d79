"""Test documents in the formats of benchmarks.compare and benchmarks.operation, with invented figures."""

from __future__ import annotations

from typing import Any


def figure(value: float, low: float, high: float, samples: int = 40) -> dict[str, Any]:
    """A measured value with its interval."""
    return {"value": value, "low": low, "high": high, "samples": samples}


def compared() -> dict[str, Any]:
    """A short run with all parts."""
    return {
        "schema": "benchmarks.compare/1",
        "began": "2026-01-02T03:04:05+00:00",
        "machine": {"cpu": "Invented", "cores": 2, "instructions": "avx2", "gpu": None, "python": "3.11.0"},
        "quick": True,
        "settings": {"answer_tokens": 16},
        "boot": {"monolith": figure(7.0, 6.5, 7.5, 3), "microservices": figure(9.0, 8.5, 9.5, 3)},
        "added": {
            "monolith": {"added_s": {"p50": figure(0.0021, 0.0019, 0.0023)}},
            "microservices": {"added_s": {"p50": figure(0.0071, 0.0069, 0.0073)}},
        },
        "closed": {
            clients: {name: _load(rate) for name, rate in (("monolith", 20.0), ("microservices", 16.0))}
            for clients in ("1", "4")
        },
        "hops": {"vector/retrieve": {"added_s": 0.002}, "llm/generate": {"added_s": 0.003}},
        "memory": {"monolith": {"pss_bytes": 700 * 2**20}, "microservices": {"pss_bytes": 1100 * 2**20}},
        "faults": {
            "monolith": {name: _fault(lost) for name, lost in _LOST["monolith"].items()},
            "microservices": {name: _fault(lost) for name, lost in _LOST["microservices"].items()},
        },
        "scaling": {
            "1": {"requests_per_s": figure(8.0, 7.5, 8.5, 4), "memory": {"pss_bytes": 900 * 2**20}},
            "2": {"requests_per_s": figure(13.0, 12.0, 14.0, 4), "memory": {"pss_bytes": 1300 * 2**20}},
            "gain": figure(1.6, 1.5, 1.7, 4),
        },
        "cost": {
            "model": "an LLM",
            "gpu_instance": "a GPU",
            "cpu_instance": "a CPU",
            "cpu_instances_per_gpu_instance": 0.003,
            "split": {"sessions": 15, "requests_per_s": 1.5, "gpu_usd_per_1000": 0.26},
            "monolith with an embedder": {
                "sessions": 14,
                "requests_per_s": 1.45,
                "usd_per_1000": 0.27,
                "break_even_cpu_usd_per_hour": {"one_gpu": 0.04, "at_scale": 15.0},
            },
        },
    }


def operation() -> dict[str, Any]:
    """The matching document of benchmarks.operation."""
    return {
        "schema": "benchmarks.operation/1",
        "only_microservices": {"lines": 1500, "settings": 5},
        "monolith": {"processes": 2, "ports": 1, "damaged_llm": _damaged(None, "503 not_ready")},
        "microservices": {"processes": 7, "ports": 3, "damaged_llm": _damaged(5.0, "")},
    }


_LOST = {
    "monolith": {"llm_killed": 5, "vector_killed": 5, "memory_refused": 0},
    "microservices": {"llm_killed": 0, "vector_killed": 0, "memory_refused": 0},
}


def _fault(lost: int) -> dict[str, Any]:
    mode = {"asked": 100, "lost": lost, "out_s": 6.0 if lost else 0.0}
    return {"modes": {name: dict(mode) for name in ("answer", "retrieve", "generate")}}


def _load(requests_per_s: float) -> dict[str, Any]:
    return {
        "requests_per_s": figure(requests_per_s, requests_per_s, requests_per_s),
        "ttft_s": {"p50": figure(0.1, 0.1, 0.1)},
    }


def _damaged(retrieves_after_s: float | None, code: str) -> dict[str, Any]:
    return {"retrieves_after_s": retrieves_after_s, "code": code, "ping": 503}
