"""Where the contract is tested: ENDPOINT_URL, or else a `serve` process with the default models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from benchmarks.process import served


@pytest.fixture(scope="session")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    given = os.environ.get("ENDPOINT_URL")
    if given:
        yield given.rstrip("/")
        return
    log: Path = tmp_path_factory.mktemp("serve") / "log"
    with served(log=log) as server:
        yield server.url


@pytest.fixture(scope="session")
def client(endpoint: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint, timeout=70) as client:
        yield client
