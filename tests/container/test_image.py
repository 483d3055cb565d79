"""The image as SageMaker runs it: `docker run IMAGE serve`, no network, nothing writable but /tmp."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.process import ROOT
from tests.container.conftest import Container, call

Run = Callable[..., Container]

READ_ONLY = ("--read-only", "--tmpfs", "/tmp")


def ready(status: int, _: Any) -> bool:
    return status == 200


def failed(status: int, body: Any) -> bool:
    return status == 503 and body["error"]["code"] == "failed"


def test_the_image_has_serve_on_its_path_and_no_build_tools(docker: str, image: str) -> None:
    tools = "for tool in gcc cc g++ make ld; do command -v $tool; done; ls /opt/venv/bin/pip"
    script = f"stat -c %a $(command -v serve); {tools}"
    mode, *rest = subprocess.run(
        [docker, "run", "--rm", "--network", "none", image, "sh", "-c", script],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    assert mode == "755"
    assert not [word for word in rest if "/" in word]


def test_it_answers_without_a_network_and_stops_on_sigterm(run: Run) -> None:
    container = run("--network", "none")
    container.until(ready)
    status, document = container.ask("/invocations", {"query": "Qual a capital do Brasil?"})
    assert (status, document["grounded"]) == (200, True)
    assert "Brasília" in document["text"]
    assert container.stop() == 0


@pytest.mark.parametrize("variant", ["monolith", "microservices"])
def test_the_contract_holds_on_a_published_port_with_a_read_only_root(run: Run, port: int, variant: str) -> None:
    container = run("--publish", f"127.0.0.1:{port}:8080", "--env", f"VARIANT={variant}", *READ_ONLY)
    container.until(ready)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/contract"],
        cwd=ROOT,
        env={**os.environ, "ENDPOINT_URL": f"http://127.0.0.1:{port}"},
        check=False,
    )
    assert done.returncode == 0, container.log()


def test_an_artifact_in_opt_ml_model_wins_over_what_is_in_the_image(run: Run, artifact: Path) -> None:
    container = run("--network", "none", *READ_ONLY, "--volume", f"{artifact}:/opt/ml/model:ro")
    container.until(ready)
    status, document = container.ask("/invocations", {"query": "Quando foi construído o farol?", "mode": "retrieve"})
    assert status == 200
    assert [source["id"] for source in document["sources"]] == ["farol.md#1"]
    log = container.log()
    assert '"event": "artifact"' in log
    plan = next(line for line in log.splitlines() if '"event": "plan"' in line)
    assert json.loads(plan[plan.index("{") :])["context_tokens"] == 512


def test_a_damaged_artifact_keeps_ping_at_503_and_names_the_file(run: Run, artifact: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(artifact, damaged)
    weights = damaged / "llm" / "rag-tiny" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    container = run("--network", "none", "--volume", f"{damaged}:/opt/ml/model:ro")
    _, body = container.until(failed)
    assert "llm/rag-tiny/model.safetensors is damaged" in body["error"]["message"]


def test_the_plan_can_be_asked_of_the_image_alone(docker: str, image: str) -> None:
    done = call(docker, "run", "--rm", "--network", "none", image, "serve", "--check")
    assert json.loads(done.stdout)["concurrency"] == 16
