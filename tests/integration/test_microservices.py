"""Both variants as processes, with the shipped models: equal answers, the same contract, killed services.

Both are started together, once for all tests here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.harness.process import ROOT, ServedProcess, free_port

PORTUGUESE, ENGLISH = "Qual a capital do Brasil?", "What is the capital of Brazil?"


class Variants:
    """A client for each variant, and the supervised services by name."""

    def __init__(self, monolith: ServedProcess, microservices: ServedProcess, ports: dict[str, int]) -> None:
        self.monolith = httpx.Client(base_url=monolith.url, timeout=60)
        self.microservices = httpx.Client(base_url=microservices.url, timeout=60)
        self.microservices_url = microservices.url
        self._supervisor = microservices.process.pid
        self._ports = ports

    def pid(self, service: str) -> int:
        """Of the gunicorn worker that serves `service`."""
        for child in _children(self._supervisor):
            if f"--variant\0{service}\0".encode() in _command(child):
                return _children(child)[0]
        raise AssertionError(f"{service} does not run")

    def health(self, service: str) -> int:
        """The status of /health, 0 where the connection is refused."""
        try:
            return httpx.get(f"http://127.0.0.1:{self._ports[service]}/health", timeout=2).status_code
        except httpx.TransportError:
            return 0


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:  # noqa: PTH123 - a pseudo-file
        return [int(child) for child in children.read().split()]


def _command(pid: int) -> bytes:
    with open(f"/proc/{pid}/cmdline", "rb") as command:  # noqa: PTH123
        return command.read()


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Variants]:
    logs = tmp_path_factory.mktemp("logs")
    ports = {"vector": free_port(), "llm": free_port()}
    settings = {f"{name.upper()}_PORT": str(port) for name, port in ports.items()}
    started = [
        ServedProcess({}, log=logs / "monolith"),
        ServedProcess({"VARIANT": "microservices", **settings}, log=logs / "microservices"),
    ]
    try:
        for process in started:
            process.wait_until_ready()
        variants = Variants(started[0], started[1], ports)
        yield variants
        variants.monolith.close()
        variants.microservices.close()
    finally:
        statuses = [process.stop() for process in started]
    assert statuses == [0, 0]


def until(condition: Callable[[], bool], limit_s: float = 60) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < limit_s
        time.sleep(0.05)
    return time.monotonic() - began


def without_times(response: httpx.Response) -> bytes:
    """The answer's bytes, without the ids and times that differ from request to request."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if name not in ("id", "timings", "created")}
        return [plain(part) for part in value] if isinstance(value, list) else value

    lines = [line.removeprefix("data: ") for line in response.text.splitlines()]
    kept = [json.dumps(plain(json.loads(line)), ensure_ascii=False) for line in lines if line.startswith("{")]
    return "\n".join(kept).encode()


def test_greedy_answers_are_the_monolith_s_byte_for_byte(variants: Variants) -> None:
    lines = (ROOT / "benchmarks" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines]
    bodies: list[dict[str, Any]] = [{"query": question} for question in questions[::4]]
    bodies += [{"query": question, "stream": True, "logprobs": 3} for question in questions[1:9:4]]
    bodies += [{"messages": [{"role": "user", "content": PORTUGUESE}]}, {"inputs": ENGLISH, "stream": True}]
    bodies += [{"query": PORTUGUESE, "mode": mode} for mode in ("retrieve", "embed", "generate")]
    for body in bodies:
        there = variants.monolith.post("/invocations", json=body)
        here = variants.microservices.post("/invocations", json=body)
        assert here.status_code == there.status_code == 200
        assert without_times(here) == without_times(there), body


def test_the_contract_holds(variants: Variants) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "tests/contract"],
        cwd=ROOT,
        env={**os.environ, "ENDPOINT_URL": variants.microservices_url},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_disconnect_frees_the_llm_service_at_once(variants: Variants) -> None:
    body = {"query": "Conte tudo.", "mode": "generate", "max_new_tokens": 900, "min_new_tokens": 900, "stream": True}
    usage = f"http://127.0.0.1:{variants._ports['llm']}/usage"
    with variants.microservices.stream("POST", "/invocations", json=body) as response:
        assert response.status_code == 200, response.read()
        pieces = response.iter_bytes()  # held: once it is collected, the connection is closed
        next(pieces)
        assert httpx.get(usage).json()["requests"] == 1
    assert until(lambda: httpx.get(usage).json()["requests"] == 0, 5) < 1


def test_a_killed_llm_service_ends_its_streams_with_an_error_and_comes_back_while_retrieval_goes_on(
    variants: Variants,
) -> None:
    body = {"query": "Conte.", "mode": "generate", "max_new_tokens": 900, "temperature": 1.0}
    with variants.microservices.stream(
        "POST", "/invocations", json=body, headers={"Accept": "application/jsonlines"}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(variants.pid("llm"), signal.SIGKILL)
        *_, last = map(json.loads, lines)
    assert (last["type"], last["error"]["retryable"]) == ("error", True)

    retrieved = variants.microservices.post("/invocations", json={"query": PORTUGUESE, "mode": "retrieve"})
    assert retrieved.status_code == 200
    refused = variants.microservices.post("/invocations", json={"query": PORTUGUESE})
    assert refused.status_code == 503
    assert refused.json()["error"]["field"] == "phase"
    assert variants.microservices.get("/ping").status_code == 200
    until(lambda: variants.microservices.post("/invocations", json={"query": PORTUGUESE}).status_code == 200)


def test_a_killed_vector_service_comes_back_while_the_generate_mode_goes_on(variants: Variants) -> None:
    killed = variants.pid("vector")
    os.kill(int(_status(killed)["PPid"]), signal.SIGKILL)  # the whole service, so that the supervisor has to start it
    generated = variants.microservices.post("/invocations", json={"query": "Olá", "mode": "generate"})
    assert generated.status_code == 200
    until(lambda: not Path(f"/proc/{killed}").exists() and variants.health("vector") == 200)
    assert variants.pid("vector") != killed
    assert "Brasília" in variants.microservices.post("/invocations", json={"query": PORTUGUESE}).json()["text"]


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii") as status:  # noqa: PTH123
        return {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
