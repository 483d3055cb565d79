"""`make local-endpoint`: the container as a process, the stand-in in front of it, and an example call with boto3."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from deploy.errors import WrongOption
from deploy.local.local_endpoint import IN_SERVICE, Limits
from deploy.local.runtime import LocalRuntime

_SERVE = Path(__file__).parents[2] / "serve"
_GRACE_S = 30  # between SIGTERM and SIGKILL, as on the platform


def run_local(
    endpoint: str, *, port: int, container_url: str | None, seed: int | None, limits: Limits | None = None
) -> int:
    """Serve until Ctrl-C or SIGTERM. Starts the container unless `container_url` is of a running one.

    `seed` cuts streams at random places. Exit status 1 where /ping never returns 200.
    """
    console, stop = Console(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with contextlib.ExitStack() as stack:
        process = None
        if container_url is None:
            process, container_url = stack.enter_context(_container())
        chance = None if seed is None else random.Random(seed)
        runtime = stack.enter_context(LocalRuntime(port=port, chance=chance, limits=limits))
        served = runtime.serve(endpoint, container_url)
        with console.status(f"{endpoint}: Creating; waiting for {container_url}/ping"):
            while served.wait(0.2) == "Creating" and not stop.is_set() and _alive(process):
                pass
        if served.state != IN_SERVICE:
            if not stop.is_set():
                reason = served.failure_reason or "the container ended before it was ready"
                console.print(f"{endpoint}: Failed: {reason}", style="red")
            return 1
        console.print(f"{endpoint}: InService\n", style="green")
        console.print(_example(endpoint, runtime.url), markup=False, highlight=False)
        while not stop.wait(0.5):
            if not _alive(process):
                console.print(f"{endpoint}: the container has ended", style="red")
                return 1
    return 0


@contextlib.contextmanager
def _container() -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`serve` on a free loopback port, in a separate process session so that Ctrl-C reaches it only through here."""
    if not _SERVE.exists():
        raise WrongOption(
            "there is no `serve` to start: the package was installed without the repository",
            "Pass --container-url, or run the command in a clone.",
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, str(_SERVE)], cwd=_SERVE.parent, env=environment, start_new_session=True
    )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _alive(process: subprocess.Popen[bytes] | None) -> bool:
    return process is None or process.poll() is None


def _example(endpoint: str, url: str) -> str:
    return f"""Ask it from Python like any endpoint (with any credentials):

    import boto3, json
    runtime = boto3.client("sagemaker-runtime", endpoint_url="{url}", region_name="us-east-1",
                           aws_access_key_id="local", aws_secret_access_key="local")
    answer = runtime.invoke_endpoint(EndpointName="{endpoint}", ContentType="application/json",
                                     Body=json.dumps({{"query": "Qual a capital do Brasil?"}}))
    print(json.load(answer["Body"])["text"])

or with the project's client, which has typed errors, streams and sessions:

    from rag_client import Client
    client = Client("{endpoint}", region="us-east-1", endpoint_url="{url}")
    for event in client.stream("Qual a capital do Brasil?"):
        print(event.get("text", ""), end="", flush=True)

Ctrl-C stops both."""
