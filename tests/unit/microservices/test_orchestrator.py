"""The orchestrator over two services of fakes: the monolith's answers, and what it answers when a service is down."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from flask.testing import FlaskClient

import inference
from microservices import orchestrator
from microservices.orchestrator import OrchestratorBoot
from rag.serving.lifecycle import Boot
from rag.serving.telemetry import Telemetry
from rag.settings import Settings
from tests.fakes import FakeGenerator, fake_admission, fake_pipeline
from tests.services import llm_app, ready, serving, vector_app
from tests.waiting import until

QUESTION = {"query": "Qual a capital do Brasil?"}


class Services:
    """A vector and an LLM service that can be stopped, and the orchestrator's client."""

    def __init__(self, admission: Any = None) -> None:
        self.generator = FakeGenerator()
        self._running = {"vector": ExitStack(), "llm": ExitStack()}
        apps = {"vector": vector_app(), "llm": llm_app(self.generator, admission=admission)}
        urls = {name: self._running[name].enter_context(serving(app)) for name, app in apps.items()}
        self.settings = Settings(
            vector_url=urls["vector"], llm_url=urls["llm"], context=256, top_k=2, hop_timeout_s=2, metrics_emf_s=0
        )
        self.boot = OrchestratorBoot(self.settings)
        app = orchestrator.create_app(self.settings, self.boot, quiet(self.boot))
        self.client = app.test_client()
        self.boot.start()

    def stop(self, name: str) -> None:
        self._running[name].close()

    def close(self) -> None:
        self.boot.close()
        for running in self._running.values():
            running.close()


def quiet(boot: Boot[Any]) -> Telemetry:
    return Telemetry(boot.usage, boot.kv_use, out=io.StringIO())


@pytest.fixture
def services() -> Iterator[Services]:
    services = Services()
    until(lambda: services.client.get("/ping").status_code == 200)
    yield services
    services.close()


def ask(client: FlaskClient, **fields: Any) -> Any:
    return client.post("/invocations", json={**QUESTION, **fields})


def without_times(text: str) -> list[Any]:
    """Every JSON object of an answer or a stream, without what differs from request to request.

    In a refusal that is the free memory: the monolith counts what the refused request itself had reserved.
    """
    differing = ("id", "timings", "created", "have_bytes")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(part) for name, part in value.items() if name not in differing}
        return [plain(part) for part in value] if isinstance(value, list) else value

    lines = [line.removeprefix("data: ") for line in text.splitlines()]
    return [plain(json.loads(line)) for line in lines if line.startswith("{")]


@pytest.mark.parametrize(
    "body",
    [
        QUESTION,
        {**QUESTION, "stream": True},
        {**QUESTION, "logprobs": 1},
        {**QUESTION, "mode": "generate"},
        {**QUESTION, "mode": "retrieve", "filters": {"language": "pt"}},
        {**QUESTION, "mode": "embed"},
        {"inputs": "Qual a capital do Brasil?", "stream": True},
        {"messages": [{"role": "user", "content": "Qual a capital do Brasil?"}]},
        {**QUESTION, "max_new_tokens": 300},
        {"query": "palavra " * 400},
        {**QUESTION, "top_k": -1},
    ],
    ids=lambda body: str(body)[:60],
)
def test_every_answer_and_refusal_is_the_monolith_s(services: Services, body: dict[str, Any]) -> None:
    alone = ready(fake_pipeline())
    monolith = inference.create_app(services.settings, alone, quiet(alone)).test_client()
    here, there = (client.post("/invocations", json=body) for client in (services.client, monolith))
    assert here.status_code == there.status_code
    assert without_times(here.text) == without_times(there.text)


def test_a_full_ledger_is_refused_with_its_own_retry_after() -> None:
    services = Services(fake_admission(sessions=1, max_waiting=0))
    until(lambda: services.client.get("/ping").status_code == 200)
    services.generator.gate.clear()
    first = services.client.post("/invocations", json={**QUESTION, "stream": True})
    refused = ask(services.client)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert refused.get_json()["error"]["need_bytes"] == {"kv": 1000}
    first.close()
    services.generator.gate.set()
    until(lambda: ask(services.client).status_code == 200)
    services.close()


def test_without_the_llm_service_passages_and_vectors_are_answered_and_the_rest_gets_503(services: Services) -> None:
    services.stop("llm")
    for mode in ("retrieve", "embed"):
        assert ask(services.client, mode=mode).status_code == 200
    for mode in ("answer", "generate"):
        refused = ask(services.client, mode=mode)
        assert refused.status_code == 503
        error = refused.get_json()["error"]
        assert (error["value"], error["retryable"]) == ("llm: unreachable", True)
        assert "Retry-After" in refused.headers
    assert services.client.get("/ping").status_code == 200


def test_without_the_vector_service_the_generate_mode_is_answered_and_the_rest_gets_503(services: Services) -> None:
    services.stop("vector")
    assert ask(services.client, mode="generate").get_json()["text"] == "Brasília."
    for mode in ("answer", "retrieve", "embed"):
        refused = ask(services.client, mode=mode)
        assert refused.status_code == 503
        assert refused.get_json()["error"]["value"] == "vector: unreachable"
    assert services.client.get("/ping").status_code == 200


def test_without_both_ping_fails_and_names_both(services: Services) -> None:
    services.stop("vector")
    services.stop("llm")
    until(lambda: services.client.get("/ping").status_code == 503)
    until(lambda: services.client.get("/ping").get_json()["error"]["value"].count("unreachable") == 2)


def test_before_the_llm_service_is_ready_passages_are_answered_and_ping_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        unused_url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with serving(vector_app()) as vector:
        settings = Settings(vector_url=vector, llm_url=unused_url, metrics_emf_s=0)
        boot = OrchestratorBoot(settings)
        client = orchestrator.create_app(settings, boot, quiet(boot)).test_client()
        boot.start()
        boot.join()
        assert ask(client, mode="retrieve").status_code == 200
        until(lambda: "llm: unreachable" in client.get("/ping").get_json()["error"]["value"])
        assert client.get("/ping").status_code == 503
        boot.close()


def test_requests_to_the_services_are_counted_with_their_bytes(services: Services) -> None:
    before = services.client.get("/hops").get_json()
    assert ask(services.client).status_code == 200
    after = services.client.get("/hops").get_json()
    for path in ("vector/retrieve", "llm/generate"):
        assert after[path]["exchanges"] == before[path]["exchanges"] + 1
        assert after[path]["received_bytes"] > before[path]["received_bytes"]
        assert after[path]["total_s"] >= after[path]["model_s"] > 0
