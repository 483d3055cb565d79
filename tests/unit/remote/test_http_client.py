"""The HTTP client of a service: connections, retries, time-outs and the circuit breaker."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from rag.errors import (
    Unreachable,
)
from rag.remote.circuit_breaker import CircuitBreaker
from rag.remote.http_client import Exchange
from rag.remote.remote_generator import RemoteGenerator
from tests.fakes import FakeGenerator
from tests.services import llm_app, scripted_server, serving
from tests.unit.remote.clients import GREEDY, service_client


def test_a_refused_connection_is_reported_as_not_sent_and_opens_the_circuit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    service = service_client(url, circuit=CircuitBreaker(failures=4, cool_off_s=60))
    for _ in range(2):  # each is retried once: nothing was sent
        with pytest.raises(Unreachable) as raised:
            service.read("POST", "/retrieve", b"{}")
        assert raised.value.sent is False
        assert raised.value.value == "llm: unreachable"
    assert not service.circuit.permits()
    began = time.perf_counter()
    with pytest.raises(Unreachable) as raised:
        service.lines("/generate", b"{}", timeout_s=1)
    assert raised.value.retry_after_s is not None
    assert raised.value.retry_after_s > 50
    assert time.perf_counter() - began < 0.05, "an open circuit costs no wait"


def test_a_read_ends_at_its_time_out() -> None:
    quiet = threading.Event()
    with scripted_server(lambda _: quiet.wait(5)) as url:
        began = time.perf_counter()
        with pytest.raises(Unreachable) as raised:
            service_client(url, timeout_s=0.1).read("POST", "/retrieve", b"{}")
        quiet.set()
    assert 0.1 <= time.perf_counter() - began < 1.0
    assert raised.value.sent is True


def test_a_read_is_retried_when_its_connection_breaks_and_a_generation_is_not() -> None:
    received: list[int] = []
    with scripted_server(lambda _: received.append(1)) as url:
        with pytest.raises(Unreachable):
            service_client(url).read("POST", "/retrieve", b"{}")
        assert len(received) == 2
        with pytest.raises(Unreachable) as raised:
            service_client(url).lines("/generate", b"{}", timeout_s=1)
        assert raised.value.sent is True
        assert len(received) == 3


def test_health_closes_an_open_circuit(fake: FakeGenerator) -> None:
    with serving(llm_app(fake)) as url:
        service = service_client(url, circuit=CircuitBreaker(failures=1, cool_off_s=60))
        service.circuit.failed()
        remote = RemoteGenerator([service], assumed_model_len=9)
        remote.refresh()
        assert service.circuit.permits()
        assert [delta.text for delta in remote.generate([1], GREEDY)][:1] == ["Brasí"]


def test_a_connection_serves_one_generation_after_another(fake: FakeGenerator) -> None:
    exchanges: list[Exchange] = []
    with serving(llm_app(fake)) as url:
        service = service_client(url, on_exchange=exchanges.append)
        remote = RemoteGenerator([service], assumed_model_len=256)
        for _ in range(4):
            list(remote.generate([1], GREEDY))
        assert service._pool.num_connections == 1
    generated = [exchange for exchange in exchanges if exchange.path == "/generate"]
    assert len(generated) == 4
    assert all(exchange.sent_bytes > 100 and exchange.received_bytes > 100 for exchange in generated)
