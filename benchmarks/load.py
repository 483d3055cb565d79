"""Concurrency test: answers under load must equal those of sequential requests, and /ping must stay fast.

    python -m benchmarks.load [--url URL] [--clients 32] [--requests 500]

Sends every question of benchmarks/questions.jsonl alone, not streamed; then all clients send them in random order, half
of them streamed, while a separate process measures /ping 50 times a second. Without --url it starts the server itself.
The last line of the output is JSON. Exit status 1 when an answer differs or a request fails.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.process import served
from benchmarks.harness.questions import question_texts


@dataclass(frozen=True, slots=True)
class TimedAnswer:
    """An answer and its sources, with seconds to the first text and to the end."""

    text: str
    sources: tuple[str, ...]
    first_s: float
    total_s: float


def ask(client: httpx.Client, question: str, *, stream: bool) -> TimedAnswer:
    """One question, streamed or not. Raises httpx.HTTPStatusError or RuntimeError if it was not answered."""
    began = time.perf_counter()
    if not stream:
        response = client.post("/invocations", json={"query": question})
        response.raise_for_status()
        document = response.json()
        total_s = time.perf_counter() - began
        return TimedAnswer(document["text"], _ids(document), total_s, total_s)
    first_s = None
    pieces = []
    with client.stream(
        "POST", "/invocations", json={"query": question}, headers={"Accept": "application/jsonlines"}
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            event = json.loads(line)
            if event["type"] == "text":
                first_s = first_s or time.perf_counter() - began
                pieces.append(event["text"])
            elif event["type"] == "error":
                raise RuntimeError(event["error"]["message"])
            elif event["type"] == "end":
                total_s = time.perf_counter() - began
                if "".join(pieces).strip() != event["text"]:
                    raise RuntimeError(f"the streamed text for {question!r} differs from its final answer")
                return TimedAnswer(event["text"], _ids(event), first_s or total_s, total_s)
    raise RuntimeError(f"the stream for {question!r} ended without an end event")


def _ids(document: dict[str, Any]) -> tuple[str, ...]:
    return tuple(source["id"] for source in document["sources"])


def watch_ping(url: str, pipe: Connection) -> None:
    """Measure /ping every 20 ms until the pipe has a message; in a separate process, without the clients' GIL."""
    seconds = []
    with httpx.Client(base_url=url, timeout=10) as client:
        client.get("/ping")  # open the connection before measuring
        while not pipe.poll(0.02):
            began = time.perf_counter()
            status = client.get("/ping").status_code
            seconds.append(time.perf_counter() - began if status == 200 else 10.0)
    pipe.send(seconds)


def measure(url: str, clients: int, requests: int, seed: int) -> dict[str, Any]:
    """The figures of one run against the server at `url`."""
    questions = question_texts()
    with httpx.Client(base_url=url, timeout=60) as client:
        alone = {question: ask(client, question, stream=False) for question in tqdm(questions, desc="alone", unit="q")}

    rng = random.Random(seed)
    work = [(rng.choice(questions), place % 2 == 0) for place in range(requests)]
    here, there = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("spawn").Process(target=watch_ping, args=(url, there))
    watcher.start()
    time.sleep(1.0)  # until the watcher has started and connected

    wrong, failed, replies = [], [], {True: [], False: []}  # type: ignore[var-annotated]
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    began = time.perf_counter()
    with httpx.Client(base_url=url, timeout=60, limits=limits) as client, ThreadPoolExecutor(clients) as threads:
        futures = [
            (question, stream, threads.submit(ask, client, question, stream=stream)) for question, stream in work
        ]
        for question, stream, future in tqdm(futures, desc=f"{clients} clients", unit="req"):
            try:
                reply = future.result()
            except (httpx.HTTPError, RuntimeError) as error:
                failed.append(f"{question}: {error}")
                continue
            replies[stream].append(reply)
            if (reply.text, reply.sources) != (alone[question].text, alone[question].sources):
                wrong.append(f"{question}: {reply.text!r}, alone {alone[question].text!r}")
    wall_s = time.perf_counter() - began
    here.send("stop")
    pings = here.recv()
    watcher.join()

    return {
        "clients": clients,
        "requests": requests,
        "failed": failed,
        "differing": wrong,
        "requests_per_s": requests / wall_s,
        "alone_p50_s": percentile([reply.total_s for reply in alone.values()], 0.5),
        "plain_p50_s": percentile([reply.total_s for reply in replies[False]], 0.5),
        "plain_p95_s": percentile([reply.total_s for reply in replies[False]], 0.95),
        "first_text_p50_s": percentile([reply.first_s for reply in replies[True]], 0.5),
        "first_text_p95_s": percentile([reply.first_s for reply in replies[True]], 0.95),
        "slowest_s": max(reply.total_s for reply in replies[True] + replies[False]),
        "pings": len(pings),
        "ping_p50_ms": 1e3 * percentile(pings, 0.5),
        "ping_p99_ms": 1e3 * percentile(pings, 0.99),
        "ping_max_ms": 1e3 * max(pings),
    }


def show(figures: dict[str, Any]) -> None:
    """Print the figures, and the first differing answers and failures."""
    table = Table(title=f"{figures['requests']} requests by {figures['clients']} clients, every second one streamed")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("answers that differ from the sequential ones", str(len(figures["differing"])))
    table.add_row("failed requests", str(len(figures["failed"])))
    for name, value in figures.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.1f}" if name.endswith(("_ms", "per_s")) else f"{value:.3f}")
    Console(stderr=True).print(table)
    for problem in [*figures["differing"][:5], *figures["failed"][:5]]:
        print(problem, file=sys.stderr)


def main() -> int:
    """Exit status: 0 if every answer equals the sequential one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server; without it, one is started")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        url = arguments.url or stack.enter_context(served({"LOG_LEVEL": "WARNING"})).url
        figures = measure(url, arguments.clients, arguments.requests, arguments.seed)
    show(figures)
    print(json.dumps(figures, ensure_ascii=False))
    return 1 if figures["differing"] or figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
