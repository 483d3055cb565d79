"""What happens beyond capacity: who is answered, who is refused, how fast, and what memory it takes.

    python -m benchmarks.overload [--seconds 20] [--repeats 3] [--queue 48]

Clients ask without a pause, 1, 2 and 10 for each session of the plan, in turn and `--repeats` times; medians are
shown with the spread. They begin one after the other within a second. Whoever is refused waits the time that the
refusal names, then asks anew. Latency is counted twice: from sending the question, and from admission (the server says
how long a request stood in line): with clients waiting the first is the second plus the line, whose length is a
setting. The last line of the output is JSON. Exit status 1 when a request was lost, answered twice, or answered by
anything but an answer or a refusal.
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
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.harness import host
from benchmarks.harness.monitored_server import Watched, watched
from benchmarks.load import percentile

_QUESTIONS = Path(__file__).parent / "questions.jsonl"
_TIMES = (1, 2, 10)
_HUNG_S = 60.0


@dataclass(slots=True)
class Seen:
    """What the clients of one phase saw. Seconds."""

    sent: int = 0
    answered_s: list[float] = field(default_factory=list)
    from_admission_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)
    hung: int = 0
    wrong: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    wall_s: float = 0.0
    last_reply: float = 0.0


async def one_client(
    client: aiohttp.ClientSession, seen: Seen, questions: list[str], drawn: Random, starts_s: float, until: float
) -> None:
    """Ask without a pause, from `starts_s` seconds on, until the phase is over."""
    await asyncio.sleep(starts_s)
    while time.monotonic() < until:
        seen.sent += 1
        began = time.monotonic()
        try:
            async with client.post("/invocations", json={"query": drawn.choice(questions)}) as response:
                document = await response.json()
        except TimeoutError:
            seen.hung += 1
            continue
        except (aiohttp.ClientError, ValueError) as error:
            seen.wrong.append(repr(error))
            continue
        seen.last_reply = time.monotonic()
        took_s = seen.last_reply - began
        if response.status == 200:
            seen.answered_s.append(took_s)
            seen.from_admission_s.append(took_s - document["timings"]["queue_s"])
            if document["id"] in seen.ids:
                seen.wrong.append(f"{document['id']} came twice")
            seen.ids.add(document["id"])
        elif response.status == 429:
            seen.refused_s.append(took_s)
            await asyncio.sleep(document["error"]["retry_after_s"])
        else:
            seen.wrong.append(str(document)[:200])


async def phase(url: str, clients: int, questions: list[str], seconds: float, seeds: count[int]) -> Seen:
    """`clients` at once for `seconds`, and until the last of them has its answer or refusal."""
    seen = Seen()
    connections, patience = aiohttp.TCPConnector(limit=clients), aiohttp.ClientTimeout(_HUNG_S)
    async with aiohttp.ClientSession(url, connector=connections, timeout=patience) as client:
        began = time.monotonic()
        await asyncio.gather(
            *(
                one_client(client, seen, questions, Random(next(seeds)), place / clients, began + seconds)
                for place in range(clients)
            )
        )
        seen.wall_s = seen.last_reply - began  # those still told to wait are not waited for
    return seen


def figures_of(seen: Seen, watch: Watched, lines_before: int, predicted_bytes: int) -> dict[str, float]:
    """One phase in numbers."""
    lines = watch.requests()[lines_before:]
    refused_s = [line["total_s"] for line in lines if line["status"] == 429]
    return {
        "sent": seen.sent,
        "answered": len(seen.answered_s),
        "refused": len(seen.refused_s),
        "hung": seen.hung,
        "lost_or_wrong": len(seen.wrong) + abs(len(lines) - seen.sent),
        "answered_per_s": len(seen.answered_s) / seen.wall_s,
        "latency_p50_s": percentile(seen.answered_s, 0.5),
        "latency_p95_s": percentile(seen.answered_s, 0.95),
        "from_admission_p95_s": percentile(seen.from_admission_s, 0.95),
        "refusal_p99_server_ms": 1e3 * percentile(refused_s, 0.99) if refused_s else 0.0,
        "refusal_p99_client_ms": 1e3 * percentile(seen.refused_s, 0.99) if seen.refused_s else 0.0,
        "peak_share_of_plan": watch.peak_bytes() / predicted_bytes,
    }


def measure(seconds: float, repeats: int, settings: dict[str, str]) -> dict[str, Any]:
    """All phases, in turn, against one server."""
    questions = [json.loads(line)["question"] for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    runs: dict[int, list[dict[str, float]]] = {times: [] for times in _TIMES}
    seeds = count(1)
    with watched({"LOG_LEVEL": "INFO", **settings}) as watch:
        plan = watch.plan
        predicted_bytes = sum(plan["planned"].values())
        asyncio.run(phase(watch.url, plan["sessions"], questions, min(5.0, seconds), seeds))  # warm
        for repeat in range(repeats):
            for times in _TIMES:
                before = len(watch.requests())
                watch.peak_bytes()
                clients = times * plan["sessions"]
                print(f"round {repeat + 1} of {repeats}: {clients} clients for {seconds:.0f} s", file=sys.stderr)
                seen = asyncio.run(phase(watch.url, clients, questions, seconds, seeds))
                for complaint in seen.wrong[:3]:
                    print(complaint, file=sys.stderr)
                time.sleep(0.3)  # the last log lines are written after the last byte
                runs[times].append(figures_of(seen, watch, before, predicted_bytes))
        left = {name: watch.metric(name) for name in ("rag_kv_reserved_bytes", "rag_kv_used_bytes", "rag_waiting")}
    return {
        "machine": host.describe(),
        "settings": settings,
        "sessions": plan["sessions"],
        "predicted_bytes": predicted_bytes,
        "left_at_the_end": left,
        "loads": {str(times): runs[times] for times in _TIMES},
    }


def show(result: dict[str, Any]) -> None:
    """Medians by load, with the spread over the repeats."""
    loads = result["loads"]
    table = Table(title=f"{result['sessions']} sessions, on {host.in_words(result['machine'])}")
    table.add_column("")
    for times in loads:
        table.add_column(f"{times}x", justify="right")
    for name in next(iter(loads.values()))[0]:
        cells = []
        for runs in loads.values():
            values = [run[name] for run in runs]
            middle = statistics.median(values)
            whole = all(float(value).is_integer() for value in values)
            cells.append(f"{middle:.0f}" if whole else f"{middle:.3g} ({min(values):.3g}–{max(values):.3g})")
        table.add_row(name, *cells)
    Console(stderr=True).print(table)


def main() -> int:
    """Exit status: 0 when every request was answered or refused, once, and the ledger ended at zero."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--queue", type=int, help="the setting QUEUE; default: the server's own")
    arguments = parser.parse_args()
    settings = {} if arguments.queue is None else {"QUEUE": str(arguments.queue)}
    result = measure(arguments.seconds, arguments.repeats, settings)
    show(result)
    print(json.dumps(result, ensure_ascii=False))
    bad = sum(run["hung"] + run["lost_or_wrong"] for runs in result["loads"].values() for run in runs)
    return 1 if bad or any(result["left_at_the_end"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
