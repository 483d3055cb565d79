"""Five thousand random and mutated requests: each gets an answer or a 4xx with a message, none a 5xx, none hangs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.process import ROOT
from inference import create_app
from rag.serving.lifecycle import Boot
from rag.settings import Settings
from tests.fakes import fake_pipeline

BODIES: tuple[Any, ...] = (
    {"query": "Qual a capital do Brasil?", "top_k": 3, "filters": {"language": "pt"}, "stream": False, "seed": 1},
    {"query": ["a", "b"], "mode": "embed"},
    {"query": "q", "mode": "generate", "max_new_tokens": 8, "temperature": 0.5, "stop": ["."], "logprobs": 2},
    {"query": "q", "allow_long_context": True, "min_score": 0.2, "stop_ids": [1, 2], "sampling_top_k": 3},
    {"inputs": "q", "parameters": {"do_sample": True, "top_p": 0.9, "details": True}, "rag": {"mode": "retrieve"}},
    {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "max_tokens": 5, "n": 1},
    {"close_session": True},
)
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**63, -(2**70), 0.5, 1e308, "", " ", "NEW_SESSION", "\ud7ff", "\x00", "é" * 300, [],
    {},
    [[]], [{}], {"a": {"b": []}}, ["x"] * 70, "answer", "generate", {"role": "user", "content": "q"},
)  # fmt: skip
TYPES = (
    "application/json",
    "text/plain",
    "application/jsonlines",
    "application/xml",
    "",
    "application/json; charset=x",
)
ACCEPTS = ("*/*", "application/json", "text/event-stream", "application/jsonlines", "text/plain", "image/png", ";;;")


def mutated(drawn: random.Random, value: Any) -> Any:
    """`value` with a part of it replaced, removed, added or repeated."""
    if isinstance(value, dict) and value and drawn.random() < 0.8:
        copy = dict(value)
        name = drawn.choice(sorted(copy))
        match drawn.randrange(4):
            case 0:
                copy[name] = mutated(drawn, copy[name])
            case 1:
                del copy[name]
            case 2:
                copy[drawn.choice(["mode", "k", "", "query", "inputs", "messages", "rag"])] = drawn.choice(ODD)
            case _:
                copy[name] = drawn.choice(ODD)
        return copy
    if isinstance(value, list) and value and drawn.random() < 0.8:
        place = drawn.randrange(len(value))
        return [*value[:place], mutated(drawn, value[place]), *value[place + drawn.randrange(2) :]]
    return drawn.choice(ODD)


def encoded(drawn: random.Random) -> bytes:
    """A body of mutated JSON, damaged JSON, or random bytes."""
    document = drawn.choice(BODIES)
    for _ in range(drawn.randrange(4)):
        document = mutated(drawn, document)
    body = json.dumps(document, ensure_ascii=drawn.random() < 0.5).encode("utf-8", "surrogatepass")
    kind = drawn.random()
    if kind < 0.25 and body:
        place = drawn.randrange(len(body))
        body = body[:place] + bytes(drawn.randrange(256) for _ in range(drawn.randrange(4))) + body[place + 1 :]
    elif kind < 0.3:
        body = drawn.randbytes(drawn.randrange(60))
    elif kind < 0.35:
        body = b"[" * drawn.randrange(3000)
    return body


@pytest.mark.parametrize("seed", range(5))
def test_a_thousand_random_requests_get_no_5xx(seed: int) -> None:
    drawn = random.Random(seed)
    pipeline = fake_pipeline()
    boot = Boot(lambda _: pipeline)
    boot.start()
    boot.join()
    client = create_app(Settings(), boot).test_client()
    seen: dict[int, int] = {}
    for _ in range(1000):
        body, headers = encoded(drawn), {}
        if drawn.random() < 0.3:
            headers["Accept"] = drawn.choice(ACCEPTS)
        if drawn.random() < 0.1:
            headers["X-Amzn-SageMaker-Session-Id"] = drawn.choice(["NEW_SESSION", "", "x" * 500, "../etc", "é"])
        content_type = drawn.choice(TYPES) if drawn.random() < 0.3 else TYPES[0]
        with client.post(
            "/invocations", data=body, headers=headers, content_type=content_type, buffered=True
        ) as response:
            seen[response.status_code] = seen.get(response.status_code, 0) + 1
            assert response.status_code < 500, (body, headers, content_type, response.data)
            if response.status_code >= 400:
                assert len(response.data) < 2048
                assert response.get_json()["error"]["message"]
        pipeline.sessions.close_all()
    assert seen[200] > 50
    assert seen[400] > 300
    usage = pipeline.admission.usage()
    assert (usage.reserved_blocks, usage.waiting) == (0, 0)
    boot.close()


@pytest.mark.slow
def test_five_thousand_bodies_by_coverage_guided_fuzzing_get_no_5xx(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="libFuzzer has no wheel for this Python")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_bodies", tmp_path, "-runs=5000", "-seed=1", f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Done 5000 runs" in done.stderr
