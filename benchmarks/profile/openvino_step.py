"""Profile of a step on the OpenVINO backend, by the runtime's performance counters.

    python -m benchmarks.profile.openvino_step

SmolLM2-135M's shape in float32. Linear layers, attention and the rest, for a prefill step and for a decode step of 16
sequences; and the GFLOP/s of the linear layers compared with torch's matrix products in the same run. The counters slow
a step down slightly. The last line of the output is JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import openvino as ov
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import host, smol_checkpoint
from benchmarks.harness.local_engine import MODEL, load_engine, random_prompt
from rag.backends.base import Segment
from rag.backends.openvino_paged import OpenVinoPaged

_REPEATS = 9
_PROMPT_TOKENS, _DECODED_AFTER, _DECODES = 512, 570, 16
_PARTS = {"FullyConnected": "linear layers", "PagedAttentionExtension": "attention"}
_REST = "rotary, norms, activations"


class ProfiledEngine:
    """An engine whose graph has performance counters, and the time of each part of its steps."""

    def __init__(self) -> None:
        untyped: Any = ov.Core
        compile_model = untyped.compile_model
        untyped.compile_model = lambda *given: compile_model(*given[:-1], {**given[-1], "PERF_COUNT": True})
        self._steps = 0
        step = OpenVinoPaged.step

        def counted(backend: OpenVinoPaged, segments: Sequence[Segment]) -> torch.Tensor:
            self._steps += 1
            return step(backend, segments)

        untyped = OpenVinoPaged
        untyped.step = counted  # before loading, because the self-test runs steps
        self.engine = load_engine("openvino", 640, [])

    def measure(self, segments: Sequence[Segment]) -> dict[str, float]:
        """Milliseconds of a step, and of each part."""
        self.engine.backend.step(segments)
        before, seconds = self._sums(), []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            self.engine.backend.step(segments)
            seconds.append(time.perf_counter() - began)
        after = self._sums()
        parts = {part: (after[part] - before[part]) / _REPEATS for part in (*_PARTS.values(), _REST)}
        return {"step": 1e3 * statistics.median(seconds), **parts}

    def _sums(self) -> Counter[str]:
        """Total milliseconds by part over all steps; the counters themselves are means per step."""
        found = Counter[str]()
        backend: Any = self.engine.backend
        for counter in backend._request.get_profiling_info():
            found[_PARTS.get(counter.node_type, _REST)] += counter.real_time.total_seconds() * 1e3 * self._steps
        return found


def torch_gflop_per_s() -> float:
    """GFLOP/s of torch's sequential products of a prompt with matrices of the model's largest shape."""
    matrices = [torch.randn(1536, 576) for _ in range(60)]
    inputs = torch.randn(_PROMPT_TOKENS, 576)
    rates = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for matrix in matrices:
            torch.nn.functional.linear(inputs, matrix)
        seconds = time.perf_counter() - began
        rates.append(2 * _PROMPT_TOKENS * sum(matrix.numel() for matrix in matrices) / 1e9 / seconds)
    return statistics.median(rates)


def main() -> int:
    """Print the table and the JSON line."""
    smol_checkpoint.make(MODEL)
    rng = random.Random(6)
    profiled = ProfiledEngine()
    blocks = -(-(_DECODED_AFTER + 1) // 32)
    prompt = f"a prompt of {_PROMPT_TOKENS} tokens"
    columns = {
        prompt: profiled.measure([Segment(random_prompt(rng, _PROMPT_TOKENS), 0, range(_PROMPT_TOKENS // 32))]),
        f"{_DECODES} decodes after {_DECODED_AFTER} tokens": profiled.measure(
            [
                Segment(random_prompt(rng, 1), _DECODED_AFTER, range(blocks * place, blocks * (place + 1)))
                for place in range(_DECODES)
            ]
        ),
    }
    profiled.engine.stop()
    work = 2 * _PROMPT_TOKENS * smol_checkpoint.LINEAR_PARAMETERS / 1e9
    rates = {"here": work / columns[prompt]["linear layers"] * 1e3, "torch": torch_gflop_per_s()}
    hardware = host.describe()
    table = Table(title=f"A step, ms, {host.machine_line(hardware)}")
    table.add_column("part", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right")
    for part in ("step", *_PARTS.values(), _REST):
        table.add_row(
            part, *(f"{column[part]:.1f} ({column[part] / column['step']:.0%})" for column in columns.values())
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(f"GFLOP/s of the linear layers in the prefill: {rates['here']:.0f}; torch's {rates['torch']:.0f}")
    print(json.dumps({"hardware": hardware, "ms": columns, "gflop_per_s": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
