"""A fake LLM service with a client, and the end of every client's connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rag.remote.remote_generator import RemoteGenerator
from tests.fakes import FakeGenerator
from tests.services import llm_app, serving
from tests.unit.remote.clients import OPENED, remote_generator


@pytest.fixture(autouse=True)
def close_connections() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.fixture
def fake() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def remote(fake: FakeGenerator) -> Iterator[RemoteGenerator]:
    with serving(llm_app(fake)) as url:
        yield remote_generator(url)
