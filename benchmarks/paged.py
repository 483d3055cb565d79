"""The OpenVINO backend compared with the torch backend, below HTTP: speed, prefix reuse, memory, latency, int8.

    python -m benchmarks.paged [speed speed_long prefix memory served_memory ticker int8]

The model has SmolLM2-135M's shape and random weights in float32; int8 is measured on the default model with the prompts
of benchmarks/questions.jsonl. `memory` measures the engine alone, `served_memory` the whole container. Each section
runs in a separate process. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import smol_checkpoint
from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.local_engine import MODEL, SESSIONS, generate, load_engine, random_prompt, smol_settings
from benchmarks.harness.monitored_server import monitored_server
from benchmarks.harness.questions import read_questions
from rag.composition import load_pipeline
from rag.engine.engine import Engine
from rag.interfaces import Sampling
from rag.planning import make_plan
from rag.settings import Settings

_JSON = {"Content-Type": "application/json"}


def _ask(engine: Engine, prompt: Sequence[int], new_tokens: int) -> float:
    """Seconds to the first token of a greedy request for exactly `new_tokens` tokens."""
    return generate(engine, prompt, Sampling(max_new_tokens=new_tokens, min_new_tokens=new_tokens)).arrivals_s[0]


def _ask_all(engine: Engine, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[float, list[float]]:
    """(tokens per second of concurrent requests, each one's seconds to its first token)."""
    with ThreadPoolExecutor(len(prompts)) as threads:
        began = time.perf_counter()
        first_s = list(threads.map(lambda prompt: _ask(engine, prompt, new_tokens), prompts))
        return len(prompts) * new_tokens / (time.perf_counter() - began), first_s


def speed() -> dict[str, Any]:
    """Tokens per second at 1, 8, 16 requests with prompts of 119 tokens, prefill included; medians of two turns."""
    return _speed(119, 48)


def speed_long() -> dict[str, Any]:
    """The same with prompts of 562 tokens."""
    return _speed(562, 32)


def _speed(prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    rng = random.Random(1)
    engines = {name: load_engine(name, 640, []) for name in ("openvino", "torch")}
    found: dict[str, Any] = {}
    for engine in engines.values():
        _ask(engine, random_prompt(rng, 100), 4)
    for clients in (1, 8, SESSIONS):
        rates: dict[str, list[float]] = {name: [] for name in engines}
        firsts: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(2):
            for name, engine in engines.items():
                prompts = [random_prompt(rng, prompt_tokens) for _ in range(clients)]
                rate, first = _ask_all(engine, prompts, new_tokens)
                rates[name].append(rate)
                firsts[name] += first
        row = {f"{name}_tokens_per_s": round(statistics.median(rate), 1) for name, rate in rates.items()}
        row |= {f"{name}_ttft_p95_s": round(percentile(first, 0.95), 3) for name, first in firsts.items()}
        row["ratio"] = round(row["openvino_tokens_per_s"] / row["torch_tokens_per_s"], 2)
        found[f"{clients} x {prompt_tokens}+{new_tokens}"] = row
    for engine in engines.values():
        engine.stop()
    return found


def prefix() -> dict[str, Any]:
    """Seconds to the first token of 440-token prompts, with and without a reusable prefix of 400 tokens."""
    rng = random.Random(2)
    engine = load_engine("openvino", 640, [])
    shared = random_prompt(rng, 400)
    _ask(engine, shared + random_prompt(rng, 40), 1)
    with_prefix = [_ask(engine, shared + random_prompt(rng, 40), 1) for _ in range(7)]
    without = [_ask(engine, random_prompt(rng, 440), 1) for _ in range(7)]
    engine.stop()
    shared_s, alone_s = statistics.median(with_prefix), statistics.median(without)
    return {"shared_s": round(shared_s, 4), "alone_s": round(alone_s, 4), "ratio": round(shared_s / alone_s, 3)}


def memory() -> dict[str, Any]:
    """Anonymous memory of the engine in MiB: planned, after the start, and with every block written."""
    import rag.backends.openvino_paged  # noqa: F401, PLC0415 - so that the imports' memory is in the baseline

    plan = make_plan(smol_settings("openvino", 1024))
    before = _memory_mib()
    phases: list[tuple[str, float]] = []
    engine = load_engine("openvino", 1024, phases)
    started = _memory_mib()
    rng = random.Random(3)
    _ask_all(engine, [random_prompt(rng, 1023) for _ in range(SESSIONS)], 1)
    full = _memory_mib()
    engine.stop()
    named = {term.name: term.bytes / 2**20 for term in plan.terms}
    parts = ("weights", "kv", "activation", "reserve")
    planned = sum(named[name] for name in parts)
    process = before["anonymous"]
    return {
        "planned": {name: round(named[name], 1) for name in parts},
        "process_before": before,
        "started": started,
        "all_blocks_written": full,
        "held_to_planned": round((full["anonymous"] - process) / planned, 3),
        "total_to_planned": round(full["anonymous"] / (planned + process), 3),
        "seconds": {phase: round(after - began, 2) for (phase, began), (_, after) in itertools.pairwise(phases)},
    }


def served_memory() -> dict[str, Any]:
    """Resident memory of the container in MiB, mapped files included: planned, peak at the start, peak under load."""
    rng = random.Random(5)
    fixed = {"LLM": str(MODEL), "CONTEXT": "1024", "CONCURRENCY": str(SESSIONS), "DEADLINE_S": "300"}
    prompts = [" ".join(map(smol_checkpoint.word, random_prompt(rng, 900))) for _ in range(SESSIONS)]

    def send(prompt: str) -> int:
        body = {"mode": "generate", "query": prompt, "max_new_tokens": 32, "min_new_tokens": 32}
        request = urllib.request.Request(f"{server.url}/invocations", json.dumps(body).encode(), _JSON)
        with urllib.request.urlopen(request) as response:
            return int(json.load(response)["usage"]["completion_tokens"])

    with monitored_server({"LOG_LEVEL": "INFO", "BACKEND": "openvino", **fixed}) as server:
        planned = {name: round(size / 2**20, 1) for name, size in server.plan["planned"].items()}
        started = server.highest_bytes() / 2**20
        with ThreadPoolExecutor(SESSIONS) as clients:
            tokens = sum(clients.map(send, prompts))
        resident, highest = server.resident_bytes() / 2**20, server.highest_bytes() / 2**20
    total = sum(planned.values())
    return {
        "planned": planned | {"total": round(total, 1)},
        "highest_at_the_start": round(started, 1),
        "highest_under_load": round(highest, 1),
        "resident_after": round(resident, 1),
        "tokens_answered": tokens,
        "start_to_planned": round(started / total, 3),
        "highest_to_planned": round(highest / total, 3),
    }


def ticker() -> dict[str, Any]:
    """Wake-up delay in ms of a thread that sleeps for 1 ms at a time, during 16 requests of 562 tokens."""
    rng = random.Random(4)
    engine = load_engine("openvino", 640, [])
    late: list[float] = []
    stop = threading.Event()

    def tick() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            time.sleep(0.001)
            late.append((time.perf_counter() - began - 0.001) * 1e3)

    thread = threading.Thread(target=tick)
    thread.start()
    _ask_all(engine, [random_prompt(rng, 562) for _ in range(SESSIONS)], 32)
    stop.set()
    thread.join()
    engine.stop()
    return {"ticks": len(late), "p99_ms": round(percentile(late, 0.99), 2), "worst_ms": round(max(late), 2)}


def int8() -> dict[str, Any]:
    """Greedy tokens of the default model with int8 weights, and with a u8 cache, compared with float32."""
    from rag.answering import prompt  # noqa: PLC0415
    from rag.answering.ask import Ask  # noqa: PLC0415

    questions = read_questions()
    prompts: list[list[int]] = []
    answers: dict[str, list[list[int]]] = {}
    changes: dict[str, dict[str, str]] = {
        "float32": {},
        "int8 weights": {"weights": "int8"},
        "u8 KV": {"kv_dtype": "u8"},
    }
    for name, changed in changes.items():
        settings = Settings.from_environment({**os.environ, "BACKEND": "openvino", **changed})
        pipeline = load_pipeline(settings, lambda _phase: None)
        generator: Any = pipeline.generator
        if not prompts:
            for question in questions:
                passages = pipeline.retrieve(Ask((question.text,), Sampling(max_new_tokens=32)))
                built = prompt.build(
                    question.text,
                    passages,
                    encode=generator.encode,
                    max_prompt_tokens=generator.max_model_len - 32,
                    language=question.language,
                )
                prompts.append(list(built.ids))
        answers[name] = [_greedy(generator.engine, ids) for ids in prompts]
        pipeline.close()
    found: dict[str, Any] = {"questions": len(questions)}
    for name in list(changes)[1:]:
        pairs = list(zip(answers["float32"], answers[name], strict=True))
        longest = sum(max(len(one), len(other)) for one, other in pairs)
        equal = sum(a == b for one, other in pairs for a, b in zip(one, other, strict=False))
        found[name] = {
            "tokens": longest,
            "equal_tokens": round(equal / longest, 4),
            "equal_answers": round(sum(one == other for one, other in pairs) / len(pairs), 4),
        }
    return found


def _greedy(engine: Engine, prompt_ids: Sequence[int]) -> list[int]:
    """Up to 32 greedy tokens, and -1 if the model ended the answer."""
    generation = generate(engine, prompt_ids, Sampling(max_new_tokens=32))
    return [*generation.tokens, -1] if generation.finish_reason == "stop" else generation.tokens


def _memory_mib() -> dict[str, float]:
    """This process's anonymous memory, file-backed pages (which the kernel can evict), and the peak of both."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if ":" in line
    )
    names = {"anonymous": "RssAnon", "file_backed": "RssFile", "peak_of_both": "VmHWM"}
    return {name: round(int(status[key].split()[0]) / 1024, 1) for name, key in names.items()}


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    section.__name__: section for section in (speed, speed_long, prefix, memory, served_memory, ticker, int8)
}


def main() -> int:
    """Run the sections; print a table of each, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="default: all")
    chosen = parser.parse_args().sections or list(SECTIONS)
    smol_checkpoint.make(MODEL)  # here, so that its memory counts in no section
    console, found = Console(stderr=True), {}
    for name in chosen:
        console.print(f"[dim]{(SECTIONS[name].__doc__ or '').strip()}[/dim]")
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            found[name] = process.submit(SECTIONS[name]).result()
        table = Table(title=name, show_header=False)
        for key, value in found[name].items():
            shown = (
                ", ".join(f"{part} {figure}" for part, figure in value.items()) if isinstance(value, dict) else value
            )
            table.add_row(key, str(shown))
        console.print(table)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
