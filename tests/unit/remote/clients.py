"""Clients of a service for the tests; conftest.py closes their connections after each."""

from __future__ import annotations

from typing import Any

from rag.interfaces import DeltaStream, Sampling
from rag.remote.http_client import ServiceClient
from rag.remote.remote_generator import RemoteGenerator

GREEDY = Sampling(max_new_tokens=8, deadline_s=5)
OPENED: list[ServiceClient] = []


def service_client(url: str, **options: Any) -> ServiceClient:
    client = ServiceClient("llm", url, **{"timeout_s": 2, **options})
    OPENED.append(client)
    return client


def remote_generator(*urls: str, **options: Any) -> RemoteGenerator:
    return RemoteGenerator([service_client(url, **options) for url in urls], assumed_model_len=256)


def text_of(deltas: DeltaStream) -> str:
    """All of it, so that no stream stays open."""
    return "".join(delta.text for delta in deltas)
