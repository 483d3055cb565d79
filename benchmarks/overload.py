"""Overload: throughput, latency, refusals (HTTP 429) and memory with more clients than the plan has sessions.

    python -m benchmarks.overload [--seconds 20] [--repeats 3] [--queue 48]

Clients send requests without a pause, 1, 2 and 10 per session of the plan, in turns and `--repeats` times; medians are
shown with the range. They start staggered over a second. After a refusal a client waits for the refusal's retry_after_s
and then sends again. Latency is measured from sending, and from admission (the server reports the time in the queue):
under overload, the first is the second plus the time in the queue, whose length is a setting. The last line of the
output is JSON. Exit status 1 when a request was lost, answered twice, or got anything but an answer or a refusal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.harness import host
from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.monitored_server import MonitoredServer, monitored_server
from benchmarks.harness.questions import question_texts

_TIMES = (1, 2, 10)
_TIMEOUT_S = 60.0


@dataclass(slots=True)
class PhaseRecord:
    """The clients' record of one phase, in seconds."""

    sent: int = 0
    answered_s: list[float] = field(default_factory=list)
    from_admission_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    timed_out: int = 0
    wrong: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    wall_s: float = 0.0
    last_reply: float = 0.0


async def one_client(
    client: aiohttp.ClientSession, record: PhaseRecord, questions: list[str], rng: Random, starts_s: float, until: float
) -> None:
    """Send requests without a pause, after `starts_s` seconds, until the phase ends."""
    await asyncio.sleep(starts_s)
    while time.monotonic() < until:
        record.sent += 1
        began = time.monotonic()
        try:
            async with client.post("/invocations", json={"query": rng.choice(questions)}) as response:
                document = await response.json()
        except TimeoutError:
            record.timed_out += 1
            continue
        except (aiohttp.ClientError, ValueError) as error:
            record.wrong.append(repr(error))
            continue
        record.last_reply = time.monotonic()
        took_s = record.last_reply - began
        if response.status == 200:
            record.answered_s.append(took_s)
            record.from_admission_s.append(took_s - document["timings"]["queue_s"])
            if document["id"] in record.ids:
                record.wrong.append(f"{document['id']} was answered twice")
            record.ids.add(document["id"])
        elif response.status == 429:
            record.refused_s.append(took_s)
            await asyncio.sleep(document["error"]["retry_after_s"])
        else:
            record.wrong.append(str(document)[:200])


async def phase(url: str, clients: int, questions: list[str], seconds: float, seeds: count[int]) -> PhaseRecord:
    """`clients` at once for `seconds`, and until the last of them has its answer or refusal."""
    record = PhaseRecord()
    connections, timeout = aiohttp.TCPConnector(limit=clients), aiohttp.ClientTimeout(_TIMEOUT_S)
    async with aiohttp.ClientSession(url, connector=connections, timeout=timeout) as client:
        began = time.monotonic()
        await asyncio.gather(
            *(
                one_client(client, record, questions, Random(next(seeds)), place / clients, began + seconds)
                for place in range(clients)
            )
        )
        record.wall_s = record.last_reply - began  # without the clients that wait for a retry
    return record


def figures_of(
    record: PhaseRecord, server: MonitoredServer, lines_before: int, predicted_bytes: int
) -> dict[str, float]:
    """The figures of one phase."""
    lines = server.requests()[lines_before:]
    refused_s = [line["total_s"] for line in lines if line["status"] == 429]
    return {
        "sent": record.sent,
        "answered": len(record.answered_s),
        "refused": len(record.refused_s),
        "hung": record.timed_out,
        "lost_or_wrong": len(record.wrong) + abs(len(lines) - record.sent),
        "answered_per_s": len(record.answered_s) / record.wall_s,
        "latency_p50_s": percentile(record.answered_s, 0.5),
        "latency_p95_s": percentile(record.answered_s, 0.95),
        "from_admission_p95_s": percentile(record.from_admission_s, 0.95),
        "refusal_p99_server_ms": 1e3 * percentile(refused_s, 0.99) if refused_s else 0.0,
        "refusal_p99_client_ms": 1e3 * percentile(record.refused_s, 0.99) if record.refused_s else 0.0,
        "peak_share_of_plan": server.peak_bytes() / predicted_bytes,
    }


def measure(seconds: float, repeats: int, settings: dict[str, str]) -> dict[str, Any]:
    """All phases, in turns, against one server."""
    questions = question_texts()
    runs: dict[int, list[dict[str, float]]] = {times: [] for times in _TIMES}
    seeds = count(1)
    with monitored_server({"LOG_LEVEL": "INFO", **settings}) as server:
        plan = server.plan
        predicted_bytes = sum(plan["planned"].values())
        asyncio.run(phase(server.url, plan["sessions"], questions, min(5.0, seconds), seeds))  # warm-up
        for repeat in range(repeats):
            for times in _TIMES:
                before = len(server.requests())
                server.peak_bytes()
                clients = times * plan["sessions"]
                print(f"round {repeat + 1} of {repeats}: {clients} clients for {seconds:.0f} s", file=sys.stderr)
                record = asyncio.run(phase(server.url, clients, questions, seconds, seeds))
                for problem in record.wrong[:3]:
                    print(problem, file=sys.stderr)
                time.sleep(0.3)  # log lines are written after the response
                runs[times].append(figures_of(record, server, before, predicted_bytes))
        left = {name: server.metric(name) for name in ("rag_kv_reserved_bytes", "rag_kv_used_bytes", "rag_waiting")}
    return {
        "machine": host.describe(),
        "settings": settings,
        "sessions": plan["sessions"],
        "predicted_bytes": predicted_bytes,
        "left_at_the_end": left,
        "loads": {str(times): runs[times] for times in _TIMES},
    }


def show(result: dict[str, Any]) -> None:
    """Print the medians by load, with the range over the repeats."""
    loads = result["loads"]
    table = Table(title=f"{result['sessions']} sessions, on {host.machine_line(result['machine'])}")
    table.add_column("")
    for times in loads:
        table.add_column(f"{times}x", justify="right")
    for name in next(iter(loads.values()))[0]:
        cells = []
        for runs in loads.values():
            values = [run[name] for run in runs]
            median = statistics.median(values)
            whole = all(float(value).is_integer() for value in values)
            cells.append(f"{median:.0f}" if whole else f"{median:.3g} ({min(values):.3g}–{max(values):.3g})")
        table.add_row(name, *cells)
    Console(stderr=True).print(table)


def main() -> int:
    """Exit status: 0 if every request was answered or refused exactly once, and the ledger ended at zero."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--queue", type=int, help="the setting QUEUE (default: the server's default)")
    arguments = parser.parse_args()
    settings = {} if arguments.queue is None else {"QUEUE": str(arguments.queue)}
    result = measure(arguments.seconds, arguments.repeats, settings)
    show(result)
    print(json.dumps(result, ensure_ascii=False))
    bad = sum(run["hung"] + run["lost_or_wrong"] for runs in result["loads"].values() for run in runs)
    return 1 if bad or any(result["left_at_the_end"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
