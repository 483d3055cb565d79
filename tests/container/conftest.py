"""The image, built once, and containers of it.

`make image-test` runs these tests; where no image can be built they are skipped with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness.process import ROOT, free_port

_LIMIT_S = 180.0
# Runs inside a container without a published port: one request to its loopback interface, the response on stdout.
_PROBE = """
import json, sys, urllib.error, urllib.request
path, body = sys.argv[1], sys.argv[2].encode() or None
request = urllib.request.Request("http://127.0.0.1:8080" + path, body, {"Content-Type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=60) as response:
        print(json.dumps([response.status, response.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
except OSError as error:
    print(json.dumps([0, str(error)]))
"""


class Container:
    """A running container of the image."""

    def __init__(self, docker: str, name: str) -> None:
        self._docker = docker
        self.name = name

    def ask(self, path: str, document: object = None) -> tuple[int, Any]:
        """Status and body of a request made inside it; the status is 0 while nothing listens."""
        body = "" if document is None else json.dumps(document)
        done = call(self._docker, "exec", self.name, "python", "-c", _PROBE, path, body)
        status, text = json.loads(done.stdout)
        return status, json.loads(text) if text.startswith(("{", "[")) else text

    def until(self, reached: Callable[[int, Any], bool]) -> tuple[int, Any]:
        """The first response of /ping for which `reached` is true; fails with the container's log after the limit."""
        began = time.monotonic()
        while time.monotonic() - began < _LIMIT_S:
            status, body = self.ask("/ping")
            if reached(status, body):
                return status, body
            time.sleep(0.5)
        pytest.fail(f"/ping said {status} {body} for {_LIMIT_S:.0f} s:\n{self.log()}")

    def log(self) -> str:
        """Everything it has written."""
        done = subprocess.run([self._docker, "logs", self.name], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """SIGTERM as SageMaker sends it, SIGKILL after 30 s; the exit status."""
        call(self._docker, "stop", "--time", "30", self.name)
        return int(call(self._docker, "inspect", "--format", "{{.State.ExitCode}}", self.name).stdout)


def call(*command: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; fails with its output on another exit status than `status`."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == status, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture(scope="session")
def docker() -> str:
    if "IMAGE_NAME" not in os.environ:
        pytest.skip("`make image-test` builds the image and runs these")
    command = os.environ.get("DOCKER", "docker")
    if shutil.which(command) is None:
        pytest.skip(f"no image can be built here: there is no command {command!r} (DOCKER names another)")
    done = subprocess.run([command, "info"], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"no image can be built here: `{command} info` says {reason!r}")
    return command


@pytest.fixture(scope="session")
def image(docker: str) -> str:
    """Built by `make build`, as a user builds it; its output goes to the terminal."""
    name = os.environ["IMAGE_NAME"]
    variables = [f"{key}={os.environ[key]}" for key in ("TORCH", "BASE_IMAGE", "BUILD_FLAGS") if os.environ.get(key)]
    made = subprocess.run(
        ["make", "--no-print-directory", "build", f"DOCKER={docker}", f"IMAGE_NAME={name}", *variables],
        cwd=ROOT,
        check=False,
    )
    assert made.returncode == 0, "the image was not built: see above"
    size_bytes = int(call(docker, "image", "inspect", "--format", "{{.Size}}", name).stdout)
    print(f"\n{name}: {size_bytes / 1e6:.0f} MB ({size_bytes / 2**20:.0f} MiB), layers not compressed")
    return name


@pytest.fixture
def run(docker: str, image: str) -> Iterator[Callable[..., Container]]:
    """Start containers as SageMaker does, `IMAGE serve`, with further options of `docker run` before the image."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Container:
            container = Container(docker, call(docker, "run", "--detach", *options, image, "serve").stdout.strip())
            stack.callback(call, docker, "rm", "--force", container.name)
            return container

        yield start


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with one document that is not in the default index."""
    place = tmp_path_factory.mktemp("artifact")
    documents = place / "documents"
    documents.mkdir()
    text = "# O farol\n\nO farol da Ilha Serena foi construído em 1873.\n"
    (documents / "farol.md").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "rag.build_artifact", "--documents", documents, "--output", place / "made"],
        cwd=ROOT,
        env={**os.environ, "CONTEXT": "512"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place / "made"
