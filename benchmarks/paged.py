"""The OpenVINO backend against the torch slots, over the engine: speed, prefixes, memory, other threads, int8.

    python -m benchmarks.paged [speed speed_long prefix memory served_memory ticker int8]

The model has SmolLM2-135M's shape and random weights, computed in float32; int8 is measured on the model that ships,
over the prompts of benchmarks/questions.jsonl. `memory` counts the engine's alone, `served_memory` the container's
whole. Each section runs in a process of its own. The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import queue
import random
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.harness import smol_checkpoint
from benchmarks.harness.monitored_server import watched
from rag.composition import cores, load_pipeline
from rag.interfaces import Sampling
from rag.planning import make_plan
from rag.settings import Settings

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "build" / "benchmarks" / f"smol135-{smol_checkpoint.LAYERS}"
_SESSIONS = 16
_JSON = {"Content-Type": "application/json"}


def load_engine(backend: Literal["openvino", "torch"], context: int, phases: list[tuple[str, float]]) -> Any:
    """An engine of 16 sessions as the container would start it; `phases` gets each phase and when it began."""
    import torch  # noqa: PLC0415

    from rag.engine.loading import EngineConfig, load_generator  # noqa: PLC0415

    torch.set_num_threads(cores())
    sys.setswitchinterval(0.0005)  # as in serve
    plan = make_plan(_settings(backend, context))
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


def _settings(backend: Literal["openvino", "torch"], context: int) -> Settings:
    fixed = {"LLM": str(MODEL), "CONTEXT": str(context), "CONCURRENCY": str(_SESSIONS), "DEVICE": "cpu"}
    return Settings.from_environment({**os.environ, **fixed, "BACKEND": backend})


def ask(engine: Any, prompt: Sequence[int], new_tokens: int) -> tuple[float, float, list[int]]:
    """(seconds to the first token, to the last, the tokens) of one greedy request."""
    began = time.perf_counter()
    ticket = engine.submit(prompt, Sampling(max_new_tokens=new_tokens, min_new_tokens=new_tokens))
    first_s, tokens = 0.0, []
    while True:
        event = ticket.events.get(timeout=600)
        if isinstance(event, Exception):
            raise event
        if event.draw is not None:
            first_s = first_s or time.perf_counter() - began
            tokens.append(event.draw.token)
        if event.finish_reason is not None:
            return first_s, time.perf_counter() - began, tokens


def ask_all(engine: Any, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[float, list[float]]:
    """(tokens a second of them all at once, seconds to each one's first token)."""
    results: queue.SimpleQueue[float] = queue.SimpleQueue()
    threads = [
        threading.Thread(target=lambda prompt=prompt: results.put(ask(engine, prompt, new_tokens)[0]))
        for prompt in prompts
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    return len(prompts) * new_tokens / seconds, [results.get() for _ in prompts]


def random_prompt(drawn: random.Random, tokens: int) -> list[int]:
    """Tokens that no other prompt shares."""
    return [drawn.randrange(1, smol_checkpoint.VOCABULARY) for _ in range(tokens)]


def speed() -> dict[str, Any]:
    """Tokens a second, prompts of 119 tokens included, at 1, 8, 16 requests; the backends in turn, medians of two."""
    return _speed(119, 48)


def speed_long() -> dict[str, Any]:
    """The same with prompts of 562 tokens."""
    return _speed(562, 32)


def _speed(prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    drawn = random.Random(1)
    engines = {name: load_engine(name, 640, []) for name in ("openvino", "torch")}
    found: dict[str, Any] = {}
    for engine in engines.values():
        ask(engine, random_prompt(drawn, 100), 4)
    for clients in (1, 8, _SESSIONS):
        rates: dict[str, list[float]] = {name: [] for name in engines}
        firsts: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(2):
            for name, engine in engines.items():
                prompts = [random_prompt(drawn, prompt_tokens) for _ in range(clients)]
                rate, first = ask_all(engine, prompts, new_tokens)
                rates[name].append(rate)
                firsts[name] += first
        row = {f"{name}_tokens_per_s": round(statistics.median(rate), 1) for name, rate in rates.items()}
        row |= {f"{name}_ttft_p95_s": round(_percentile(first, 95), 3) for name, first in firsts.items()}
        row["ratio"] = round(row["openvino_tokens_per_s"] / row["torch_tokens_per_s"], 2)
        found[f"{clients} x {prompt_tokens}+{new_tokens}"] = row
    for engine in engines.values():
        engine.stop()
    return found


def prefix() -> dict[str, Any]:
    """Seconds to the first token of 440-token prompts whose first 400 tokens were seen before, and of ones all new."""
    drawn = random.Random(2)
    engine = load_engine("openvino", 640, [])
    shared = random_prompt(drawn, 400)
    ask(engine, shared + random_prompt(drawn, 40), 1)
    with_prefix = [ask(engine, shared + random_prompt(drawn, 40), 1)[0] for _ in range(7)]
    without = [ask(engine, random_prompt(drawn, 440), 1)[0] for _ in range(7)]
    engine.stop()
    shared_s, alone_s = statistics.median(with_prefix), statistics.median(without)
    return {"shared_s": round(shared_s, 4), "alone_s": round(alone_s, 4), "ratio": round(shared_s / alone_s, 3)}


def memory() -> dict[str, Any]:
    """MiB that nobody else could have: what the plan says, what is held at the start and with every block written."""
    import rag.backends.openvino_paged  # noqa: F401, PLC0415 - what importing takes is the process's own

    plan = make_plan(_settings("openvino", 1024))
    before = _memory_mib()
    phases: list[tuple[str, float]] = []
    engine = load_engine("openvino", 1024, phases)
    started = _memory_mib()
    drawn = random.Random(3)
    ask_all(engine, [random_prompt(drawn, 1023) for _ in range(_SESSIONS)], 1)
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
    """MiB resident of the whole container, mapped files included: the most at the start, under load, and the plan."""
    drawn = random.Random(5)
    fixed = {"LLM": str(MODEL), "CONTEXT": "1024", "CONCURRENCY": str(_SESSIONS), "DEADLINE_S": "300"}
    prompts = [" ".join(map(smol_checkpoint.word, random_prompt(drawn, 900))) for _ in range(_SESSIONS)]

    def generate(prompt: str) -> int:
        body = {"mode": "generate", "query": prompt, "max_new_tokens": 32, "min_new_tokens": 32}
        request = urllib.request.Request(f"{watch.url}/invocations", json.dumps(body).encode(), _JSON)
        with urllib.request.urlopen(request) as response:
            return int(json.load(response)["usage"]["completion_tokens"])

    with watched({"LOG_LEVEL": "INFO", "BACKEND": "openvino", **fixed}) as watch:
        planned = {name: round(size / 2**20, 1) for name, size in watch.plan["planned"].items()}
        started = watch.highest_bytes() / 2**20
        with ThreadPoolExecutor(_SESSIONS) as clients:
            tokens = sum(clients.map(generate, prompts))
        resident, highest = watch.resident_bytes() / 2**20, watch.highest_bytes() / 2**20
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
    """Milliseconds by which a thread that sleeps 1 ms at a time wakes too late while 16 requests of 562 tokens run."""
    drawn = random.Random(4)
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
    ask_all(engine, [random_prompt(drawn, 562) for _ in range(_SESSIONS)], 32)
    stop.set()
    thread.join()
    engine.stop()
    return {"ticks": len(late), "p99_ms": round(_percentile(late, 99), 2), "worst_ms": round(max(late), 2)}


def int8() -> dict[str, Any]:
    """Greedy tokens of the model that ships, int8 weights and a u8 cache against float32, on the same prompts."""
    from rag.answering import prompt  # noqa: PLC0415
    from rag.answering.ask import Ask  # noqa: PLC0415

    lines = (Path(__file__).parent / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
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
            for line in questions:
                passages = pipeline.retrieve(Ask((line["question"],), Sampling(max_new_tokens=32)))
                written = prompt.build(
                    line["question"],
                    passages,
                    encode=generator.encode,
                    max_prompt_tokens=generator.max_model_len - 32,
                    language=line["language"],
                )
                prompts.append(list(written.ids))
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


def _greedy(engine: Any, prompt_ids: Sequence[int]) -> list[int]:
    """Up to 32 greedy tokens and, as a token of its own, where the answer ended."""
    ticket = engine.submit(prompt_ids, Sampling(max_new_tokens=32))
    tokens = []
    while True:
        event = ticket.events.get(timeout=600)
        if isinstance(event, Exception):
            raise event
        if event.draw is not None:
            tokens.append(event.draw.token)
        if event.finish_reason is not None:
            return [*tokens, -1] if event.finish_reason == "stop" else tokens


def _memory_mib() -> dict[str, float]:
    """Of this process: anonymous memory, pages that a file backs (the kernel may take them), and the peak of both."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if ":" in line
    )
    names = {"anonymous": "RssAnon", "file_backed": "RssFile", "peak_of_both": "VmHWM"}
    return {name: round(int(status[key].split()[0]) / 1024, 1) for name, key in names.items()}


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, round(len(values) * share / 100))]


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    section.__name__: section for section in (speed, speed_long, prefix, memory, served_memory, ticker, int8)
}


def main() -> int:
    """Run the sections, print a table of each and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[[], *SECTIONS], help="default: all")
    chosen = parser.parse_args().sections or list(SECTIONS)
    smol_checkpoint.make(MODEL)  # here, so that it weighs in no section's process
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
