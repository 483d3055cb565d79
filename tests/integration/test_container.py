"""The container as a process, with the shipped models: start, refusals, drain, and no network."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.harness.process import ROOT, ServedProcess, free_port, served

INDEX = ROOT / "build" / "index"


def test_serve_exits_with_status_2_for_a_wrong_setting() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "serve")],
        env={**os.environ, "CONCURRENCY": "many"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "CONCURRENCY" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "serve"), "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "EMBEDDING_MODEL" in done.stdout


def test_a_damaged_index_keeps_ping_at_503_and_names_the_file(tmp_path: Path) -> None:
    index = tmp_path / "index"
    shutil.copytree(INDEX, index)
    damaged = index / "passages.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b"a", b"b", 1))
    server = ServedProcess({"INDEX": str(index)}, log=tmp_path / "log")
    try:
        error: dict[str, Any] = {}
        with httpx.Client(base_url=server.url, timeout=10) as client:
            while error.get("code") != "failed":
                assert server.process.poll() is None
                if server.status() == 503:
                    error = client.get("/ping").json()["error"]
            assert "passages.jsonl" in error["message"]
            assert error["retryable"] is False
            refused = client.post("/invocations", json={"query": "q"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "failed")
    finally:
        assert server.stop() == 0


def reserved_bytes(metrics_port: int) -> float:
    lines = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("rag_kv_reserved_bytes"))


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_disconnect_frees_memory_and_sigterm_in_mid_stream_lets_the_answer_end(tmp_path: Path) -> None:
    metrics_port = free_port()
    server = ServedProcess({"CONCURRENCY": "2", "METRICS_PORT": str(metrics_port)}, log=tmp_path / "log")
    server.wait_until_ready()

    # A plain answer is written at its end, so only the closed connection shows that the client has disconnected.
    asked = json.dumps({"query": "muito " * 100, "mode": "generate", "max_new_tokens": 600, "min_new_tokens": 600})
    head = (
        "POST /invocations HTTP/1.1\r\nHost: x\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(asked)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall((head + asked).encode())
        until(lambda: reserved_bytes(metrics_port) > 0)
    left = time.monotonic()
    until(lambda: reserved_bytes(metrics_port) == 0)
    assert time.monotonic() - left < 3  # the 600 tokens would take longer
    assert '"finish_reason":"cancelled"' in (tmp_path / "log").read_text()

    status: list[int] = []
    body = {"query": "Conte tudo.", "mode": "generate", "max_new_tokens": 400, "stream": True, "temperature": 1.0}
    events = []
    with httpx.stream(
        "POST", f"{server.url}/invocations", json=body, headers={"Accept": "application/jsonlines"}, timeout=60
    ) as response:
        for place, line in enumerate(response.iter_lines()):
            events.append(json.loads(line))
            if place == 1:
                stopper = threading.Thread(target=lambda: status.append(server.stop()))
                stopper.start()
    stopper.join()
    assert events[-1]["type"] == "end"
    assert events[-1]["finish_reason"] in ("length", "stop")
    assert status == [0]


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_everything_works_without_a_network() -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/contract", "-k", "capital"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "ENDPOINT_URL"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout  # in both languages, over HTTP and through the local runtime


def test_the_shipped_models_answer_the_shipped_questions() -> None:
    """A lower bound, well below the figures of the model card: a broken prompt fails it."""
    lines = (ROOT / "benchmarks" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [question for question in map(json.loads, lines) if question["answers"]]
    with served() as server, httpx.Client(base_url=server.url, timeout=60) as client:
        found = right = 0
        for question in questions:
            document = client.post("/invocations", json={"query": question["question"]}).json()
            file = question["source"].partition("#")[0]
            found += any(source["metadata"]["source"] == file for source in document["sources"])
            right += any(answer.casefold() in document["text"].casefold() for answer in question["answers"])
    assert found >= 0.9 * len(questions)
    assert right >= 0.15 * len(questions)
