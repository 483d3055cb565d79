"""Many requests of every kind, a good part of them broken off: does the container end as it began?

    python -m benchmarks.soak [--requests 2000] [--clients 24]

Plain and streamed, short and long, in and out of sessions, with sampling and without; a third of the clients hang up
at a random moment, before, in, or after the prefill. At the end the ledger has to stand at zero and the resident memory
where it stood after the first quarter. The last line of the output is JSON. Exit status 1 where that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness import host
from benchmarks.harness.monitored_server import watched

_QUESTIONS = Path(__file__).parent / "questions.jsonl"
_SESSION = "X-Amzn-SageMaker-Session-Id"
_FLAT_SHARE = 1.05
_LEFT = ("rag_kv_reserved_bytes", "rag_kv_used_bytes", "rag_waiting", "rag_running", "rag_sessions")


def draw(drawn: Random, questions: list[str]) -> tuple[dict[str, Any], dict[str, str], float | None]:
    """A body, its headers, and after how many seconds its client hangs up, if it does."""
    body: dict[str, Any] = {"query": drawn.choice(questions), "max_new_tokens": drawn.choice([1, 8, 32, 64, 200])}
    if drawn.random() < 0.4:
        body |= {"mode": "generate", "query": " ".join(drawn.choices(questions, k=drawn.randint(1, 12)))}
    if drawn.random() < 0.3:
        body |= {"temperature": 0.8, "top_p": 0.9, "seed": drawn.randrange(1000)}
    if drawn.random() < 0.1:
        body["min_new_tokens"] = body["max_new_tokens"]
    if drawn.random() < 0.5:
        body["stream"] = True
    headers = {_SESSION: "NEW_SESSION"} if drawn.random() < 0.05 and "stream" not in body else {}
    leaves_s = drawn.random() ** 2 * 1.5 if drawn.random() < 0.33 else None
    return body, headers, leaves_s


_NO_TLS = ssl.create_default_context()  # made once: a client makes one each time otherwise, and that takes long


async def one(url: str, body: dict[str, Any], headers: dict[str, str], leaves_s: float | None) -> str:
    """Send one request on a connection of its own; what became of it, in a word."""
    try:
        async with (
            asyncio.timeout(leaves_s or 120),
            httpx.AsyncClient(base_url=url, timeout=120, verify=_NO_TLS) as client,
        ):
            response = await client.post("/invocations", json=body, headers=headers)
            session = response.headers.get("X-Amzn-SageMaker-New-Session-Id", "").split(";")[0]
            if session:
                await client.post("/invocations", json={"close_session": True}, headers={_SESSION: session})
    except TimeoutError:
        return "hung up" if leaves_s else "HUNG"
    except httpx.HTTPError as error:
        return f"BROKEN {type(error).__name__}"
    if response.status_code == 200 and body.get("stream") and '"type":"end"' not in response.text:
        return "STREAM WITHOUT END"
    return str(response.status_code)


async def soak(url: str, requests: int, clients: int, seed: int, at_quarter: Any) -> Counter[str]:
    """`requests` in all, `clients` at once."""
    questions = [json.loads(line)["question"] for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    drawn, outcomes, places = Random(seed), Counter[str](), asyncio.Semaphore(clients)
    bar = tqdm(total=requests, desc=f"{clients} clients", unit="req")

    async def placed() -> None:
        async with places:
            outcomes[await one(url, *draw(drawn, questions))] += 1
            bar.update()
            if bar.n == requests // 4:
                at_quarter()

    await asyncio.gather(*[placed() for _ in range(requests)])
    bar.close()
    return outcomes


def main() -> int:
    """Exit status: 0 when nothing was lost, the ledger is at zero, and memory is flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    began = time.monotonic()
    early_bytes: list[int] = []
    with watched({"SESSION_IDLE_S": "2"}) as watch:
        outcomes = asyncio.run(
            soak(
                watch.url,
                arguments.requests,
                arguments.clients,
                arguments.seed,
                lambda: early_bytes.append(watch.resident_bytes()),
            )
        )
        time.sleep(4)  # sessions whose client hung up before it learnt their id expire
        left = {name: watch.metric(name) for name in _LEFT}
        late_bytes = watch.resident_bytes()
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
    table = Table(title=f"{arguments.requests} requests, on {host.in_words(result['machine'])}")
    table.add_column("")
    table.add_column("value", justify="right")
    for name, value in {**result["outcomes"], **left, "growth of resident memory": result["growth"]}.items():
        table.add_row(name, f"{value:.3f}" if isinstance(value, float) else str(value))
    Console(stderr=True).print(table)
    print(json.dumps(result, ensure_ascii=False))
    # 2xx, refusals with figures, and clients that left are outcomes; all else is a fault.
    faults = sum(many for outcome, many in outcomes.items() if outcome not in ("200", "hung up", "422", "429"))
    return 1 if faults or any(left.values()) or result["growth"] > _FLAT_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
