"""Where a step's time goes on the OpenVINO backend, by the runtime's own counters, and how near to the machine that is.

    python -m benchmarks.profile.openvino_step

SmolLM2-135M's shape in float32. Attention, the products of the linear layers and the rest, for a step over a prompt and
for one of 16 sequences that decode; and what the products reach beside torch's own, taken in the same run, in GFLOP/s.
The counters slow a step down a little. The last line of the output is JSON.
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
from benchmarks.paged import MODEL, load_engine, random_prompt
from rag.backends.base import Segment
from rag.backends.openvino_paged import OpenVinoPaged

_REPEATS = 9
_PROMPT_TOKENS, _DECODED_AFTER, _DECODES = 512, 570, 16
_PARTS = {"FullyConnected": "linear layers", "PagedAttentionExtension": "attention"}
_REST = "rotary, norms, activations"


class CountedSteps:
    """Steps of an engine whose graph counts, and what each part of them took."""

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
        untyped.step = counted  # before loading, since the load tests itself by steps
        self.engine = load_engine("openvino", 640, [])

    def measure(self, segments: Sequence[Segment]) -> dict[str, float]:
        """Milliseconds of a step and of its parts."""
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
        """Milliseconds of all steps so far; the counters are means over them."""
        found = Counter[str]()
        for counter in self.engine.backend._request.get_profiling_info():
            found[_PARTS.get(counter.node_type, _REST)] += counter.real_time.total_seconds() * 1e3 * self._steps
        return found


def bare_gflop_per_s() -> float:
    """Of torch's products of a prompt with matrices in the model's largest shape, one after the other."""
    matrices = [torch.randn(1536, 576) for _ in range(60)]
    given = torch.randn(_PROMPT_TOKENS, 576)
    rates = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for matrix in matrices:
            torch.nn.functional.linear(given, matrix)
        seconds = time.perf_counter() - began
        rates.append(2 * _PROMPT_TOKENS * sum(matrix.numel() for matrix in matrices) / 1e9 / seconds)
    return statistics.median(rates)


def main() -> int:
    """Print the table and the JSON line."""
    smol_checkpoint.make(MODEL)
    drawn = random.Random(6)
    steps = CountedSteps()
    blocks = -(-(_DECODED_AFTER + 1) // 32)
    prompt = f"a prompt of {_PROMPT_TOKENS} tokens"
    columns = {
        prompt: steps.measure([Segment(random_prompt(drawn, _PROMPT_TOKENS), 0, range(_PROMPT_TOKENS // 32))]),
        f"{_DECODES} decodes after {_DECODED_AFTER} tokens": steps.measure(
            [
                Segment(random_prompt(drawn, 1), _DECODED_AFTER, range(blocks * place, blocks * (place + 1)))
                for place in range(_DECODES)
            ]
        ),
    }
    steps.engine.stop()
    work = 2 * _PROMPT_TOKENS * smol_checkpoint.LINEAR_PARAMETERS / 1e9
    rates = {"here": work / columns[prompt]["linear layers"] * 1e3, "torch": bare_gflop_per_s()}
    hardware = host.describe()
    table = Table(title=f"A step, ms, {host.in_words(hardware)}")
    table.add_column("part", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right")
    for part in ("step", *_PARTS.values(), _REST):
        table.add_row(
            part, *(f"{column[part]:.1f} ({column[part] / column['step']:.0%})" for column in columns.values())
        )
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"GFLOP/s of the linear layers over the prompt: {rates['here']:.0f}; torch's own {rates['torch']:.0f}"
    )
    print(json.dumps({"hardware": hardware, "ms": columns, "gflop_per_s": rates}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
