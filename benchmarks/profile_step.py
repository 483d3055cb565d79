"""Where the time of a decode step goes, by part, in the running engine.

    python -m benchmarks.profile_step [--models models/rag-tiny smol135] [--batches 1 16] [--prompt-tokens 300]

So many sequences with random prompts decode side by side; after all prompts are in, half of the steps are timed as they
are and half under torch's profiler. A part's time is what its operators took themselves; the last part is what remains
of an unprofiled step: Python, the dispatch of operators, scheduling, handing tokens out. The last line is JSON.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from rag.backend import Backend, Segment

_REST = "Python, dispatch, scheduling"
_PARTS = {
    "linear layers": ("mm", "addmm", "linear", "matmul", "bmm", "addbmm"),
    "attention": ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention", "softmax"),
    "gather and scatter": ("index", "index_put_", "_index_put_impl_", "index_select", "embedding", "gather", "scatter"),
    "norms, rotary, activations": (
        "mul",
        "add",
        "add_",
        "pow",
        "mean",
        "rsqrt",
        "silu",
        "neg",
        "cat",
        "sub",
        "cos",
        "sin",
    ),
    "sampling": ("max", "argmax", "isfinite", "eq", "ne", "abs", "_local_scalar_dense", "item"),
    "copies": ("copy_", "clone", "contiguous", "_to_copy", "to", "zeros", "zero_", "fill_", "new_zeros", "new_empty"),
}


class Window:
    """A Backend around another one that times `steps` decode steps of a full batch, then profiles as many."""

    def __init__(self, inner: Backend, batch: int, steps: int) -> None:
        self._inner, self._batch, self._steps = inner, batch, steps
        self.block_size, self.vocab_size = inner.block_size, inner.vocab_size
        self.whole_prompts, self.weights_bytes = inner.whole_prompts, inner.weights_bytes
        self.allocate, self.copy, self.reusable = inner.allocate, inner.copy, inner.reusable
        self.began_s: list[float] = []
        self.events: Any = None
        self.done = threading.Event()
        self._profiler: Any = None

    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """The inner step. Profiling begins and ends here, since it sees the thread that it began in."""
        if len(segments) == self._batch and all(len(segment.new_ids) == 1 for segment in segments):
            if len(self.began_s) <= self._steps:
                self.began_s.append(time.perf_counter())
                self._profiled = 0
            elif self._profiler is None:
                activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * torch.cuda.is_available()]
                self._profiler = profile(activities=activities)
                self._profiler.__enter__()
            elif self._profiled < self._steps:
                self._profiled += 1
                if self._profiled == self._steps:
                    self._profiler.__exit__(None, None, None)
                    self.events = self._profiler.key_averages()
                    self.done.set()
        return self._inner.step(segments)
