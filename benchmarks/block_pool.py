"""Milliseconds that `BlockPool.reserve` takes under the engine's lock, as the pool grows from 512 to 65,536 blocks.

    python -m benchmarks.block_pool [--repeats 400] [--blocks 512 1024 ...]

The blocks hold the tokens of ended sequences, and 16 sequences run. A request has the same size at each size of the
pool, 160 prompt tokens and 32 new ones in 6 blocks of 32, and displaces an ended one: no other has its tokens (`new`),
or all have the same first 40, as after a system prompt (`shared`). `long` is a request of 4,064 prompt tokens and 32
new ones, 128 blocks, after 8,192 of 32 and 32, two blocks each. CPU time of the thread, so that other processes on the
machine do not count. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import host
from benchmarks.harness.bootstrap import percentile
from rag.engine.block_pool import BlockPool
from rag.engine.scheduler import SequenceState
from rag.interfaces import Sampling

Prompts = Callable[[int], tuple[int, ...]]
_SIZES = [512 << step for step in range(8)]
_BLOCK_TOKENS, _VOCABULARY = 32, 50_000
_PROMPT_TOKENS, _NEW_TOKENS, _SHARED_TOKENS = 160, 32, 40
_RUNNING = 16
_LONGEST_S = 60.0  # for one row of the table, which then has fewer repeats


def new_prompts(seed: int) -> Prompts:
    """Prompts of a given length without a common prefix."""
    drawn = random.Random(seed)
    return lambda tokens: tuple(drawn.choices(range(_VOCABULARY), k=tokens))


def shared_prompts(seed: int) -> Prompts:
    """Prompts of a given length whose first 40 tokens are the same."""
    drawn = new_prompts(seed)
    system = drawn(_SHARED_TOKENS)
    return lambda tokens: system + drawn(tokens - _SHARED_TOKENS)


def reserve(pool: BlockPool, prompt: tuple[int, ...], running: list[SequenceState]) -> tuple[SequenceState, float]:
    """A sequence that runs now, and the seconds that reserving its blocks took."""
    sequence = SequenceState(prompt, Sampling(max_new_tokens=_NEW_TOKENS))
    began = time.thread_time()
    allocation = pool.reserve(sequence.packed_prompt, sequence.worst_case_tokens, running, 512)
    seconds = time.thread_time() - began
    if allocation is None:
        raise RuntimeError("the pool is too small for this benchmark")
    sequence.block_ids, sequence.num_computed = allocation.block_ids, allocation.num_cached
    return sequence, seconds


def release(pool: BlockPool, sequence: SequenceState) -> float:
    """End a sequence with all its tokens computed; the seconds that it took."""
    sequence.output_ids = list(range(_NEW_TOKENS))
    sequence.num_computed = sequence.num_tokens - 1  # the last token of a sequence is never computed
    began = time.thread_time()
    pool.release(sequence, reusable=True)
    return time.thread_time() - began


def filled(num_blocks: int, prompts: Prompts, tokens: int) -> tuple[BlockPool, list[SequenceState]]:
    """A pool whose blocks all hold ended sequences of `tokens` prompt tokens, and those that run in it."""
    pool = BlockPool(num_blocks, _BLOCK_TOKENS)
    each = -(-(tokens + _NEW_TOKENS) // _BLOCK_TOKENS)
    ended = [reserve(pool, prompts(tokens), [])[0] for _ in range(num_blocks // each)]
    for sequence in ended:
        release(pool, sequence)
    running: list[SequenceState] = []
    for _ in range(_RUNNING):
        sequence, _ = reserve(pool, prompts(tokens), running)
        sequence.num_computed = tokens
        running.append(sequence)
    return pool, running


def measure(
    pool: BlockPool, running: list[SequenceState], prompts: Prompts, tokens: int, repeats: int
) -> dict[str, float]:
    """Figures of requests of `tokens` prompt tokens that come and end one after another."""
    reserves: list[float] = []
    releases: list[float] = []
    until = time.monotonic() + _LONGEST_S
    while len(reserves) < repeats and time.monotonic() < until:
        sequence, seconds = reserve(pool, prompts(tokens), running)
        reserves.append(1e3 * seconds)
        releases.append(1e3 * release(pool, sequence))
    return {
        "repeats": len(reserves),
        "reserve_p50_ms": round(statistics.median(reserves), 4),
        "reserve_p99_ms": round(percentile(reserves, 0.99), 4),
        "reserve_worst_ms": round(max(reserves), 4),
        "release_p50_ms": round(statistics.median(releases), 4),
    }


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--blocks", type=int, nargs="+", default=_SIZES)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for name, kind in (("new", new_prompts), ("shared", shared_prompts)):
        for num_blocks in arguments.blocks:
            prompts = kind(1)
            pool, running = filled(num_blocks, prompts, _PROMPT_TOKENS)
            figures[f"{name} {num_blocks}"] = measure(pool, running, prompts, _PROMPT_TOKENS, arguments.repeats)
    prompts = new_prompts(2)
    pool, running = filled(16_384, prompts, _BLOCK_TOKENS)
    figures["long 16384"] = measure(pool, running, prompts, 4096 - _NEW_TOKENS, min(50, arguments.repeats))
    hardware = host.describe()
    table = Table(title=f"Reserving blocks in a full pool, {host.machine_line(hardware)}")
    table.add_column("request, blocks", no_wrap=True)
    for heading in ("reserve ms p50", "p99", "worst", "release ms p50", "repeats"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        times = (row["reserve_p50_ms"], row["reserve_p99_ms"], row["reserve_worst_ms"], row["release_p50_ms"])
        table.add_row(name, *(f"{value:.3f}" for value in times), str(row["repeats"]))
    Console(stderr=True).print(table)
    print(json.dumps({"hardware": hardware, "figures": figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
