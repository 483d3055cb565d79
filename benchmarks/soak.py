"""Soak test: many requests of every kind, a third of them cancelled, must leave no reserved or growing memory.

    python -m benchmarks.soak [--requests 2000] [--clients 24]

Plain and streamed, short and long, with and without sessions and sampling; a third of the clients disconnect at a
random moment, before, during or after the prefill. At the end the ledger must be at zero, and the resident memory where
it was after the first quarter. The last line of the output is JSON. Exit status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from random import Random
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness import host
from benchmarks.harness.monitored_server import monitored_server
from benchmarks.harness.questions import question_texts

_SESSION = "X-Amzn-SageMaker-Session-Id"
_FLAT_SHARE = 1.05
_LEFT = ("rag_kv_reserved_bytes", "rag_kv_used_bytes", "rag_waiting", "rag_running", "rag_sessions")


def draw(rng: Random, questions: list[str]) -> tuple[dict[str, Any], dict[str, str], float | None]:
    """A random body, its headers, and the seconds after which the client disconnects, if it does."""
    body: dict[str, Any] = {"query": rng.choice(questions), "max_new_tokens": rng.choice([1, 8, 32, 64, 200])}
    if rng.random() < 0.4:
        body |= {"mode": "generate", "query": " ".join(rng.choices(questions, k=rng.randint(1, 12)))}
    if rng.random() < 0.3:
        body |= {"temperature": 0.8, "top_p": 0.9, "seed": rng.randrange(1000)}
    if rng.random() < 0.1:
        body["min_new_tokens"] = body["max_new_tokens"]
    if rng.random() < 0.5:
        body["stream"] = True
    headers = {_SESSION: "NEW_SESSION"} if rng.random() < 0.05 and "stream" not in body else {}
    disconnect_s = rng.random() ** 2 * 1.5 if rng.random() < 0.33 else None
    return body, headers, disconnect_s


_TLS = ssl.create_default_context()  # shared: by default every client creates one, which is slow


async def one(url: str, body: dict[str, Any], headers: dict[str, str], disconnect_s: float | None) -> str:
    """Send one request on a new connection; its outcome as a word."""
    try:
        async with (
            asyncio.timeout(disconnect_s or 120),
            httpx.AsyncClient(base_url=url, timeout=120, verify=_TLS) as client,
        ):
            response = await client.post("/invocations", json=body, headers=headers)
            session = response.headers.get("X-Amzn-SageMaker-New-Session-Id", "").split(";")[0]
            if session:
                await client.post("/invocations", json={"close_session": True}, headers={_SESSION: session})
    except TimeoutError:
        return "disconnected" if disconnect_s else "TIMED OUT"
    except httpx.HTTPError as error:
        return f"BROKEN {type(error).__name__}"
    if response.status_code == 200 and body.get("stream") and '"type":"end"' not in response.text:
        return "STREAM WITHOUT END"
    return str(response.status_code)


async def soak(url: str, requests: int, clients: int, seed: int, at_quarter: Any) -> Counter[str]:
    """`requests` in total, `clients` at once."""
    questions = question_texts()
    rng, outcomes, slots = Random(seed), Counter[str](), asyncio.Semaphore(clients)
    bar = tqdm(total=requests, desc=f"{clients} clients", unit="req")

    async def limited() -> None:
        async with slots:
            outcomes[await one(url, *draw(rng, questions))] += 1
            bar.update()
            if bar.n == requests // 4:
                at_quarter()

    await asyncio.gather(*[limited() for _ in range(requests)])
    bar.close()
    return outcomes


def main() -> int:
    """Exit status: 0 if no request was lost, the ledger is at zero, and memory did not grow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    early_bytes: list[int] = []
    with monitored_server({"SESSION_IDLE_S": "2"}) as server:
        outcomes = asyncio.run(
            soak(
                server.url,
                arguments.requests,
                arguments.clients,
                arguments.seed,
                lambda: early_bytes.append(server.resident_bytes()),
            )
        )
        time.sleep(4)  # until the sessions expire whose client disconnected before it received their id
        left = {name: server.metric(name) for name in _LEFT}
        late_bytes = server.resident_bytes()
    result = {
        "machine": host.describe(),
        "requests": arguments.requests,
        "wall_s": time.monotonic() - began,
        "outcomes": dict(sorted(outcomes.items())),
        "left_at_the_end": left,
        "resident_mib_at_a_quarter": early_bytes[0] / 2**20,
        "resident_mib_at_the_end": late_bytes / 2**20,
        "growth": late_bytes / early_bytes[0],
    }
    table = Table(title=f"{arguments.requests} requests, on {host.machine_line(result['machine'])}")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in {**result["outcomes"], **left, "growth of resident memory": result["growth"]}.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console(stderr=True).print(table)
    print(json.dumps(result, ensure_ascii=False))
    # Answers, refusals and disconnects are expected; everything else is a failure.
    failures = sum(many for outcome, many in outcomes.items() if outcome not in ("200", "disconnected", "422", "429"))
    return 1 if failures or any(left.values()) or result["growth"] > _FLAT_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
