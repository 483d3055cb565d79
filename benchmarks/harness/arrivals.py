"""Load generators for a server: closed-loop (each client waits for its answer) and open-loop (Poisson arrivals)."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx

from benchmarks.harness.bootstrap import mean, percentiles

# The time-out of a request during a fault, after which it counts as lost.
_FAULT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class RequestSample:
    """One request as measured by its client, in seconds after sending; `error` is empty if it was answered."""

    began: float
    total_s: float
    first_s: float = 0.0
    tokens: int = 0
    mode: str = "answer"
    error: str = ""
    text: str = ""
    timings: dict[str, float] | None = None

    @property
    def tpot_s(self) -> float | None:
        """Seconds per token after the first one."""
        return (self.total_s - self.first_s) / (self.tokens - 1) if self.tokens > 1 else None


class LoadTurn(NamedTuple):
    """One variant's turn at one load: its samples, wall-clock seconds and CPU seconds."""

    samples: list[RequestSample]
    wall_s: float
    cpu_s: float


def load_figures(turns: Sequence[LoadTurn]) -> dict[str, Any]:
    """The figures of one variant at one load, over its turns."""
    samples = [sample for turn in turns for sample in turn.samples]
    answered = [sample for sample in samples if not sample.error]
    return {
        "requests": len(samples),
        "failed": sorted(sample.error for sample in samples if sample.error),
        "ttft_s": percentiles([sample.first_s for sample in answered]),
        "tpot_s": percentiles([sample.tpot_s for sample in answered if sample.tpot_s is not None]),
        "total_s": percentiles([sample.total_s for sample in answered]),
        "requests_per_s": mean([sum(not sample.error for sample in turn.samples) / turn.wall_s for turn in turns]),
        "cpu_s_per_request": mean([turn.cpu_s / len(turn.samples) for turn in turns]),
    }


def ask(client: httpx.Client, body: dict[str, Any], *, stream: bool) -> RequestSample:
    """One request, as plain JSON or as a stream of JSON Lines; a failure is recorded in the sample."""
    began = time.perf_counter()
    mode = str(body.get("mode", "answer"))
    try:
        if stream:
            return _streamed(client, body, began)
        response = client.post("/invocations", json=body)
        total_s = time.perf_counter() - began
        if response.status_code != 200:
            return RequestSample(began, total_s, mode=mode, error=_code(response))
        document = response.json()
        tokens = document.get("usage", {}).get("completion_tokens", 0)
        return RequestSample(
            began, total_s, total_s, tokens, mode, "", document.get("text", ""), document.get("timings")
        )
    except (httpx.HTTPError, ValueError) as error:
        return RequestSample(began, time.perf_counter() - began, mode=mode, error=type(error).__name__)


def _streamed(client: httpx.Client, body: dict[str, Any], began: float) -> RequestSample:
    mode, first_s = str(body.get("mode", "answer")), 0.0
    accept = {"Accept": "application/jsonlines"}
    with client.stream("POST", "/invocations", json=body, headers=accept) as response:
        if response.status_code != 200:
            response.read()
            return RequestSample(began, time.perf_counter() - began, mode=mode, error=_code(response))
        for line in response.iter_lines():
            event = json.loads(line)
            now_s = time.perf_counter() - began
            if event["type"] == "text":
                first_s = first_s or now_s
            elif event["type"] == "error":
                return RequestSample(began, now_s, mode=mode, error=event["error"]["code"])
            elif event["type"] == "end":
                tokens = event["usage"]["completion_tokens"]
                return RequestSample(began, now_s, first_s or now_s, tokens, mode, "", event["text"], event["timings"])
    return RequestSample(began, time.perf_counter() - began, mode=mode, error="cut off")


def _code(response: httpx.Response) -> str:
    try:
        return f"{response.status_code} {response.json()['error']['code']}"
    except (ValueError, KeyError):
        return str(response.status_code)


def closed_loop(url: str, bodies: Sequence[dict[str, Any]], clients: int) -> tuple[list[RequestSample], float]:
    """Send all `bodies`, streamed, by `clients` clients; the samples and the wall-clock seconds."""
    with _client(url, clients) as client, ThreadPoolExecutor(clients) as threads:
        began = time.perf_counter()
        samples = list(threads.map(lambda body: ask(client, body, stream=True), bodies))
        return samples, time.perf_counter() - began


def open_loop(
    url: str, bodies: Sequence[dict[str, Any]], per_s: float, rng: random.Random
) -> tuple[list[RequestSample], float]:
    """Send all `bodies`, streamed, with exponential gaps, whether earlier ones are answered or not.

    A sample's clock starts when the request was due, so a delay of the client is counted as latency.
    """
    due_s: list[float] = []
    at_s = 0.0
    for _ in bodies:
        at_s += rng.expovariate(per_s)
        due_s.append(at_s)
    with _client(url, 256) as client, ThreadPoolExecutor(min(256, len(bodies))) as threads:
        began = time.perf_counter()

        def one(body: dict[str, Any], due: float) -> RequestSample:
            time.sleep(max(0.0, began + due - time.perf_counter()))
            return ask(client, body, stream=True)

        samples = list(threads.map(one, bodies, due_s))
        return samples, time.perf_counter() - began


class BackgroundClients:
    """Clients that send requests in the background until stopped, `each` per body."""

    def __init__(self, url: str, bodies: dict[str, dict[str, Any]], each: int = 1, pause_s: float = 0.02) -> None:
        self.samples: list[RequestSample] = []
        self._over = threading.Event()
        self._pause_s = pause_s
        self._client = _client(url, each * len(bodies), timeout_s=_FAULT_TIMEOUT_S)
        self._threads = [
            threading.Thread(target=self._run, args=(body,)) for body in bodies.values() for _ in range(each)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[RequestSample]:
        """Stop the clients; the samples of all requests."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._client.close()
        return self.samples

    def _run(self, body: dict[str, Any]) -> None:
        while not self._over.wait(self._pause_s):
            self.samples.append(ask(self._client, body, stream=False))


def until(condition: Callable[[], bool], limit_s: float) -> float | None:
    """Seconds until `condition` held; None if it did not within the limit."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > limit_s:
            return None
        time.sleep(0.05)
    return time.perf_counter() - began


def rounds_of(bodies: Sequence[dict[str, Any]], count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """`count` of `bodies`, in random order and as evenly as possible."""
    for place in range(count):
        if place % len(bodies) == 0:
            order = rng.sample(range(len(bodies)), len(bodies))
        yield bodies[order[place % len(bodies)]]


def _client(url: str, connections: int, timeout_s: float = 70) -> httpx.Client:
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.Client(base_url=url, timeout=timeout_s, limits=limits)
