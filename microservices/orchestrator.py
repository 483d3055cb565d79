"""The orchestrator: the monolith's application and pipeline over remote seams.

/ping says 503 with both services' phases until one question has been answered through them, and from then on 200 while
either of them is ready: SageMaker replaces an instance whose /ping fails, which takes minutes, and the supervisor
restarts a service in seconds. What can't be answered meanwhile is refused with 503 and the phase.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from flask import Flask, Response

import inference
from microservices.service_app import plain
from rag.answering.pipeline import Pipeline
from rag.composition import make_pipeline
from rag.errors import Failed, NotReady, RagError
from rag.remote.clients import RemoteEmbedder, RemoteGenerator, RemoteRetriever
from rag.remote.http_client import Exchange, Service
from rag.remote.remote_admission import RemoteAdmission
from rag.serving.lifecycle import Boot
from rag.serving.telemetry import Telemetry
from rag.settings import Settings

_log = logging.getLogger(__name__)

_WATCH_S = 1.0
_WATCH_UNREADY_S = 0.2
_ASSUMED_MODEL_LEN = 131_072


class OrchestratorBoot(Boot[Pipeline]):
    """Answers what it can from the start, and watches the services for /ping."""

    def __init__(self, settings: Settings, on_ready: Callable[[], None] = lambda: None) -> None:
        self.hops = HopCounts()
        threads = settings.http_threads
        vector = Service(
            "vector",
            settings.vector_url or f"http://127.0.0.1:{settings.vector_port}",
            timeout_s=settings.hop_timeout_s,
            connections=threads,
            on_exchange=self.hops.count,
        )
        llms = [
            Service("llm", url, timeout_s=settings.hop_timeout_s, connections=threads, on_exchange=self.hops.count)
            for url in settings.llm_urls
        ]
        self._embedder = RemoteEmbedder(vector)
        self._generator = RemoteGenerator(llms, assumed_model_len=settings.context or _ASSUMED_MODEL_LEN)
        retriever = RemoteRetriever(vector)
        admission = RemoteAdmission(self._generator, governed_tokens=settings.governed_context)
        super().__init__(lambda _: make_pipeline(settings, self._embedder, retriever, self._generator, admission))
        self._on_complete = on_ready
        self._complete = False
        self._unready: dict[str, RagError] = {
            name: NotReady("not asked yet", field="phase", value="starting") for name in ("vector", "llm")
        }
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch_services, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to load and to watch."""
        super().start()
        self._watcher.start()

    def close(self) -> None:
        """Stop watching; the services stay."""
        self._stopping.set()
        super().close()

    def unready(self) -> NotReady | None:
        """What /ping says: see the module."""
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

    def loaded(self) -> Pipeline:
        """The pipeline, ready or not: it refuses by itself what a missing service is needed for."""
        own = super().unready()
        if own is not None:
            raise own
        return self._loaded

    def _watch_services(self) -> None:
        self.join()
        began = time.monotonic()
        while not self._stopping.is_set():
            self._look("vector", self._embedder.learn)
            self._look("llm", self._generator.learn)
            if not self._complete and not self._unready:
                self._try_canary(began)
            self._stopping.wait(_WATCH_UNREADY_S if self._unready or not self._complete else _WATCH_S)

    def _look(self, name: str, learn: Callable[[], None]) -> None:
        was = _phase(self._unready.get(name))
        try:
            learn()
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


class HopCounts:
    """What went over each hop so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._totals: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))

    def count(self, exchange: Exchange) -> None:
        """Add one exchange; what it took beyond `model_s` is the hop's."""
        with self._lock:
            total = self._totals[exchange.service + exchange.path]
            total["exchanges"] += 1
            total["sent_bytes"] += exchange.sent_bytes
            total["received_bytes"] += exchange.received_bytes
            total["total_s"] += exchange.total_s
            total["model_s"] += exchange.model_s or 0.0

    def totals(self) -> dict[str, dict[str, float]]:
        """By service and path: exchanges, bytes each way, seconds, and those that the models took of them."""
        with self._lock:
            return {hop: dict(total) for hop, total in self._totals.items()}


def with_room(settings: Settings) -> Settings:
    """The settings with places for what all LLM services together take."""
    services = len(settings.llm_urls)
    return settings.model_copy(update={"concurrency": settings.sessions * services, "queue": settings.queue * services})


def create_app(settings: Settings, boot: OrchestratorBoot, telemetry: Telemetry) -> Flask:
    """inference.create_app, and GET /hops."""
    app = inference.create_app(settings, boot, telemetry)

    @app.get("/hops")
    def hops() -> Response:
        return plain(boot.hops.totals())

    return app


def _phase(error: RagError | None) -> str:
    if error is None:
        return "ready"
    if isinstance(error, Failed):
        return f"failed: {error.message}"
    return str(error.value or error.message).split(": ", 1)[-1]
