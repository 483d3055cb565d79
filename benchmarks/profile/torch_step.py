"""Profile of a decode step on the torch backend, in the running engine.

    python -m benchmarks.profile.torch_step [--batches 1 16] [--prompt-tokens 300] [--steps 20]

For the default model and SmolLM2-135M's shape, with batches of sequences with random prompts. After the prefill, half
of the steps are timed without and half with torch's profiler. A part's time is the self time of its operators; the last
part is the remainder of an unprofiled step: Python, operator dispatch, scheduling, delivery of tokens. The profiler
slows small operators down, so the remainder is a lower bound. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import AutoModelForCausalLM

from benchmarks.harness import host, smol_checkpoint
from benchmarks.harness.process import ROOT
from rag.backends.base import Backend, Segment
from rag.backends.torch_slots import TorchSlots
from rag.engine.engine import Engine
from rag.interfaces import Sampling
from rag.settings import Settings

_REST = "Python, dispatch, scheduling"
_OTHER = "views, norms, rotary, activations"
_PARTS = {
    "linear layers": ("mm", "addmm", "linear", "matmul", "bmm"),
    "attention": (
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "scaled_dot_product_attention",
    ),
    "gather and scatter": ("index", "index_put_", "_index_put_impl_", "index_copy_", "index_select", "embedding"),
    "sampling": ("max", "argmax", "isfinite", "abs", "eq", "ne", "_local_scalar_dense"),
}


class ProfilingBackend:
    """A Backend around another one that times `steps` decode steps of a full batch, then profiles as many."""

    whole_prompts = False

    def __init__(self, inner: Backend, batch: int, steps: int) -> None:
        self._inner, self._batch, self._steps = inner, batch, steps
        self.block_size, self.vocab_size, self.weights_bytes = inner.block_size, inner.vocab_size, inner.weights_bytes
        self.allocate, self.copy, self.reusable = inner.allocate, inner.copy, inner.reusable
        self.plain_s = 0.0
        self.events: Any = None
        self.done = threading.Event()
        self._began_s: list[float] = []
        self._profiler: Any = None
        self._profiled = 0

    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """The inner step. Starts and stops the profiler, which records only the thread that starts it."""
        if len(segments) == self._batch and all(len(segment.new_ids) == 1 for segment in segments):
            self._began_s.append(time.perf_counter())
            if len(self._began_s) == self._steps + 1:
                gaps = [later - earlier for earlier, later in itertools.pairwise(self._began_s)]
                self.plain_s = statistics.median(gaps)
                activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
                self._profiler = profile(activities=activities)
                self._profiler.__enter__()
            elif len(self._began_s) == 2 * self._steps + 1:
                self._profiler.__exit__(None, None, None)
                self.events = self._profiler.key_averages()
                self.done.set()
        return self._inner.step(segments)


def measure(source: str, batch: int, prompt_tokens: int, steps: int) -> dict[str, float]:
    """Milliseconds per step: `step`, and each part of it."""
    untyped: Any = AutoModelForCausalLM
    model = untyped.from_pretrained(source, dtype=torch.float32)
    profiled = ProfilingBackend(TorchSlots(model, max_model_len=1024), batch, steps)
    engine = Engine(profiled, num_blocks=batch, max_model_len=1024, max_waiting=batch)
    rng = random.Random(1)
    for _ in range(batch):
        prompt = [rng.randrange(3, profiled.vocab_size) for _ in range(prompt_tokens)]
        engine.submit(prompt, Sampling(1024 - prompt_tokens))
    if not profiled.done.wait(600):
        raise RuntimeError(f"{source}: too few full steps at batch {batch}")
    engine.stop()
    parts = dict.fromkeys([*_PARTS, _OTHER], 0.0)
    for event in profiled.events:
        name = event.key.removeprefix("aten::")
        part = next((part for part, names in _PARTS.items() if name in names), _OTHER)
        parts[part] += event.self_cpu_time_total / 1e3 / steps
    step_ms = 1e3 * profiled.plain_s
    return {"step": step_ms, **parts, _REST: max(0.0, step_ms - sum(parts.values()))}


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--prompt-tokens", type=int, default=300)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument(
        "--layers", type=int, default=smol_checkpoint.LAYERS, help="of SmolLM2's shape; fewer, to try the script"
    )
    arguments = parser.parse_args()
    smol = ROOT / "build" / "benchmarks" / f"smol135-{arguments.layers}"
    smol_checkpoint.make(smol, arguments.layers)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    columns = {}
    for name, source in (("default model", Settings().llm), ("SmolLM2-135M's shape", str(smol))):
        for batch in arguments.batches:
            print(f"{name}, batch {batch}", file=sys.stderr, flush=True)
            columns[f"{name}, batch {batch}"] = measure(source, batch, arguments.prompt_tokens, arguments.steps)
    hardware = host.describe()
    table = Table(title=f"A decode step after {arguments.prompt_tokens} tokens, ms, {host.machine_line(hardware)}")
    table.add_column("part", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right")
    for part in next(iter(columns.values())):
        table.add_row(
            part, *(f"{column[part]:.2f} ({column[part] / column['step']:.0%})" for column in columns.values())
        )
    Console(stderr=True, width=140).print(table)
    print(json.dumps({"hardware": hardware, "ms": columns}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
