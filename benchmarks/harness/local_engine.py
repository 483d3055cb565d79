"""The engine in the benchmark's own process, over the checkpoint in SmolLM2-135M's shape: load it and generate."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from benchmarks.harness import smol_checkpoint
from benchmarks.harness.process import ROOT
from rag.composition import cores
from rag.interfaces import Sampling
from rag.planning import make_plan
from rag.settings import Settings

if TYPE_CHECKING:
    import random

    from rag.engine.engine import Engine

MODEL = ROOT / "build" / "benchmarks" / f"smol135-{smol_checkpoint.LAYERS}"
SESSIONS = 16


@dataclass(slots=True)
class Generation:
    """The tokens of one request, and the seconds from submission to each of them and to the end."""

    tokens: list[int] = field(default_factory=list)
    arrivals_s: list[float] = field(default_factory=list)
    total_s: float = 0.0
    finish_reason: str = ""


def generate(engine: Engine, prompt: Sequence[int], sampling: Sampling) -> Generation:
    """Submit a request and wait for its end. Raises the error if the engine fails it."""
    result = Generation()
    began = time.perf_counter()
    ticket = engine.submit(prompt, sampling)
    while True:
        event = ticket.events.get(timeout=600)
        if isinstance(event, Exception):
            raise event
        if event.draw is not None:
            result.arrivals_s.append(time.perf_counter() - began)
            result.tokens.append(event.draw.token)
        if event.finish_reason is not None:
            result.total_s = time.perf_counter() - began
            result.finish_reason = event.finish_reason
            return result


def smol_settings(backend: Literal["openvino", "torch"], context: int) -> Settings:
    """The container's settings for 16 sessions of the checkpoint."""
    fixed = {"LLM": str(MODEL), "CONTEXT": str(context), "CONCURRENCY": str(SESSIONS), "DEVICE": "cpu"}
    return Settings.from_environment({**os.environ, **fixed, "BACKEND": backend})


def load_engine(backend: Literal["openvino", "torch"], context: int, phases: list[tuple[str, float]]) -> Engine:
    """An engine of 16 sessions, loaded as by the container; each phase and its start time are appended to `phases`."""
    import torch  # noqa: PLC0415

    from rag.engine.loading import EngineConfig, load_generator  # noqa: PLC0415

    torch.set_num_threads(cores())
    sys.setswitchinterval(0.0005)  # as in serve
    plan = make_plan(smol_settings(backend, context))
    phases.append(("loading the LLM", time.perf_counter()))
    config = EngineConfig(
        str(MODEL),
        num_blocks=plan.num_blocks,
        max_waiting=64,
        context_tokens=context,
        backend=backend,
        threads=cores(),
    )
    generator = load_generator(config, lambda phase: phases.append((phase, time.perf_counter())))
    phases.append(("ready", time.perf_counter()))
    return generator.engine


def random_prompt(rng: random.Random, tokens: int) -> list[int]:
    """Random tokens, so that no two prompts share a prefix."""
    return [rng.randrange(1, smol_checkpoint.VOCABULARY) for _ in range(tokens)]
