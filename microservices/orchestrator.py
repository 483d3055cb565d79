"""The orchestrator: the monolith's application and pipeline over the vector and the LLM service.

/ping answers 503 with both services' phases until one question has been answered through them, and from then on 200
while either of them is ready: SageMaker replaces an instance whose /ping fails, which takes minutes, and the supervisor
restarts a service in seconds. Requests that need the missing service are refused with 503 and its phase.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from flask import Flask, Response
from typing_extensions import override

import inference
from microservices.service_app import json_response
from rag.answering.pipeline import Pipeline
from rag.composition import pipeline_options
from rag.errors import Failed, NotReady, RagError
from rag.remote.http_client import Exchange, ServiceClient
from rag.remote.remote_admission import RemoteAdmission
from rag.remote.remote_generator import RemoteGenerator
from rag.remote.remote_retrieval import RemoteEmbedder, RemoteRetriever
from rag.serving.lifecycle import Boot
from rag.serving.telemetry import Telemetry
from rag.settings import Settings

_log = logging.getLogger(__name__)

_POLL_S = 1.0
_POLL_UNREADY_S = 0.2
_ASSUMED_MODEL_LEN = 131_072


class OrchestratorBoot(Boot[Pipeline]):
    """Serves requests from the start, and polls the services for /ping."""

    def __init__(self, settings: Settings, on_ready: Callable[[], None] = lambda: None) -> None:
        self.exchanges = ExchangeTotals()
        threads = settings.http_threads
        vector = ServiceClient(
            "vector",
            settings.vector_url or f"http://127.0.0.1:{settings.vector_port}",
            timeout_s=settings.hop_timeout_s,
            connections=threads,
            on_exchange=self.exchanges.add,
        )
        llms = [
            ServiceClient(
                "llm",
                url,
                timeout_s=settings.hop_timeout_s,
                connections=threads,
                on_exchange=self.exchanges.add,
            )
            for url in settings.llm_urls
        ]
        self._embedder = RemoteEmbedder(vector)
        self._generator = RemoteGenerator(llms, assumed_model_len=settings.context or _ASSUMED_MODEL_LEN)
        retriever = RemoteRetriever(vector)
        admission = RemoteAdmission(self._generator, governed_tokens=settings.governed_context)
        options = pipeline_options(settings)
        super().__init__(lambda _: Pipeline(self._embedder, retriever, self._generator, admission, options))
        self._on_complete = on_ready
        self._complete = False
        self._unready: dict[str, RagError] = {
            name: NotReady("not polled yet", field="phase", value="starting") for name in ("vector", "llm")
        }
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll_services, name="poll", daemon=True)

    @override
    def start(self) -> None:
        super().start()
        self._poller.start()

    @override
    def close(self) -> None:
        self._stopping.set()
        super().close()

    @override
    def unready(self) -> NotReady | None:
        own = super().unready()
        if own is not None:
            return own
        unready = dict(self._unready)
        if self._complete and len(unready) < 2:
            return None
        for error in unready.values():
            if isinstance(error, Failed) and not self._complete:
                return error
        phase = "; ".join(f"{name}: {_phase(error)}" for name, error in unready.items()) or "answering the canary"
        return NotReady(f"loading: {phase}", field="phase", value=phase, retry_after_s=1.0)

    @override
    def loaded(self) -> Pipeline:
        """The pipeline, whether the services are ready or not: it refuses requests that need a missing one."""
        own = super().unready()
        if own is not None:
            raise own
        return self._loaded

    def _poll_services(self) -> None:
        self.join()
        began = time.monotonic()
        while not self._stopping.is_set():
            self._poll("vector", self._embedder.refresh)
            self._poll("llm", self._generator.refresh)
            if not self._complete and not self._unready:
                self._try_canary(began)
            self._stopping.wait(_POLL_UNREADY_S if self._unready or not self._complete else _POLL_S)

    def _poll(self, name: str, refresh: Callable[[], None]) -> None:
        was = _phase(self._unready.get(name))
        try:
            refresh()
        except RagError as error:
            self._unready = {**self._unready, name: error}
        else:
            self._unready = {other: error for other, error in self._unready.items() if other != name}
        now = _phase(self._unready.get(name))
        if now != was:
            _log.info(json.dumps({"event": "service", "name": name, "phase": now}, ensure_ascii=False))

    def _try_canary(self, began: float) -> None:
        try:
            self._loaded.canary()
        except RagError as error:
            _log.warning("the canary was not answered: %s", error.message)
        else:
            self._complete = True
            _log.info(json.dumps({"event": "complete", "seconds": round(time.monotonic() - began, 3)}))
            self._on_complete()


class ExchangeTotals:
    """Totals of the requests to the services."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    def add(self, exchange: Exchange) -> None:
        """Add one request; its time beyond `model_s` is the cost of HTTP."""
        with self._lock:
            total = self._totals[exchange.service + exchange.path]
            total["exchanges"] += 1
            total["sent_bytes"] += exchange.sent_bytes
            total["received_bytes"] += exchange.received_bytes
            total["total_s"] += exchange.total_s
            total["model_s"] += exchange.model_s or 0.0

    def totals(self) -> dict[str, dict[str, float]]:
        """By service and path: requests, bytes each way, seconds, and the models' share of them."""
        with self._lock:
            return {path: dict(total) for path, total in self._totals.items()}


def for_all_services(settings: Settings) -> Settings:
    """The settings with as many places as all LLM services have together."""
    services = len(settings.llm_urls)
    return settings.model_copy(update={"concurrency": settings.sessions * services, "queue": settings.queue * services})


def create_app(settings: Settings, boot: OrchestratorBoot, telemetry: Telemetry) -> Flask:
    """inference.create_app, and GET /hops."""
    app = inference.create_app(settings, boot, telemetry)

    @app.get("/hops")
    def hops() -> Response:
        return json_response(boot.exchanges.totals())

    return app


def _phase(error: RagError | None) -> str:
    if error is None:
        return "ready"
    if isinstance(error, Failed):
        return f"failed: {error.message}"
    return str(error.value or error.message).split(": ", 1)[-1]
