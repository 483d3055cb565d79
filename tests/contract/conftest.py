"""The servers for the contract tests, which run over HTTP and through a SageMaker client.

no variable        a `serve` process with the default models, directly and through the local runtime
ENDPOINT_URL       the server there (a process, an image), directly and through the local runtime
ENDPOINT_NAME      the live endpoint of that name, by boto3; RUNTIME_URL selects another runtime than Amazon's
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest

from benchmarks.harness.process import served
from deploy.local.runtime import LocalRuntime
from rag_client.client import CONFIG
from tests.contract.runtime_transport import RuntimeTransport

_NAME = os.environ.get("ENDPOINT_NAME")


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("ENDPOINT_URL")
    if given:
        yield given.rstrip("/")
        return
    log: Path = tmp_path_factory.mktemp("serve") / "log"
    with served(log=log) as server:
        yield server.url


@pytest.fixture(scope="session", params=["runtime"] if _NAME else ["http", "runtime"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    if request.param == "http":
        with httpx.Client(base_url=request.getfixturevalue("endpoint"), timeout=70) as client:
            yield client
    elif _NAME:
        runtime = boto3.client(
            "sagemaker-runtime",
            region_name=os.environ.get("REGION") or None,
            endpoint_url=os.environ.get("RUNTIME_URL") or None,
            config=CONFIG,
        )
        with httpx.Client(base_url="http://runtime", transport=RuntimeTransport(runtime, _NAME)) as client:
            yield client
    else:
        with LocalRuntime(chance=random.Random(5)) as local:
            assert local.serve("rag", request.getfixturevalue("endpoint")).wait(60) == "InService"
            runtime = boto3.client(
                "sagemaker-runtime",
                endpoint_url=local.url,
                region_name="us-east-1",
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=CONFIG,
            )
            with httpx.Client(base_url="http://runtime", transport=RuntimeTransport(runtime, "rag")) as client:
                yield client
