"""`python -m deploy local` as a process: what it prints works, and it ends on SIGTERM."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import main
from rag_client import Client
from tests.unit.deploy.fake_container import FakeContainer

ROOT = Path(__file__).parents[3]


def start(*more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "deploy", "local", "--port", "0", *more],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_the_local_endpoint_is_called_as_it_says(container: FakeContainer) -> None:
    process = start("--container-url", container.url, "--endpoint-name", "mine", "--rechunk", "3")
    assert process.stdout is not None
    with process.stdout:
        output = ""
        while "Ctrl-C stops both" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        url = re.search(r'endpoint_url="(http://127\.0\.0\.1:\d+)"', output)
        assert url is not None
        client = Client("mine", endpoint_url=url[1])
        assert client.ask("q")["text"] == "Brasília: q"
        assert list(client.stream("q")) == container.events("q")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_container_that_ends_before_it_is_ready_ends_the_command() -> None:
    process = start(CONCURRENCY="many")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Failed: the container ended before it was ready" in output


def test_without_the_repository_a_container_url_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("deploy.local.local_command._SERVE", tmp_path / "serve")
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(["local", "--port", "0"]) == 2
    assert "Pass --container-url" in capsys.readouterr().err
