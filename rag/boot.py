"""From a started process to a ready one: loading runs in its own thread, and /ping asks how far it has come.

loading, phase by phase → ready; or failed, with the reason, for good.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Literal, TypeAlias

from rag.errors import Failed, NotReady, RagError
from rag.pipeline import Pipeline

State: TypeAlias = Literal["loading", "ready", "failed"]
Load: TypeAlias = Callable[[Callable[[str], None]], Pipeline]

_log = logging.getLogger(__name__)


class Boot:
    """Runs `load(on_phase)` once, in the background, and holds the pipeline that comes out.

    `on_ready` is called in that thread once requests are answered.
    """

    def __init__(self, load: Load, on_ready: Callable[[], None] = lambda: None) -> None:
        self._load = load
        self._on_ready = on_ready
        self._state: State = "loading"
        self._phase = "starting"
        self._failure: RagError | None = None
        self._pipeline: Pipeline | None = None
        self._seconds: dict[str, float] = {}
        self._phase_began = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="boot", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def join(self) -> None:
        """Wait until loading has succeeded or failed."""
        self._thread.join()

    def unready(self) -> NotReady | None:
        """Why requests can't be answered now, or None when they can."""
        if self._state == "failed":
            if isinstance(self._failure, Failed):
                return self._failure
            reason, remedy = (self._failure.message, self._failure.remedy) if self._failure else ("unknown", None)
            return Failed(f"loading failed: {reason}", field="phase", value="failed", remedy=remedy)
        if self._state == "loading":
            return NotReady(f"loading: {self._phase}", field="phase", value=self._phase, retry_after_s=1.0)
        if not self._loaded.generator.alive:
            return Failed("the engine has died", field="phase", value="dead", remedy="restart the container")
        return None

    def pipeline(self) -> Pipeline:
        """Raises NotReady with the phase or the reason."""
        unready = self.unready()
        if unready is not None:
            raise unready
        return self._loaded

    def close(self) -> None:
        """Stop what the pipeline runs. Nothing is answered afterwards."""
        if self._state == "ready":
            self._loaded.close()

    @property
    def _loaded(self) -> Pipeline:
        assert self._pipeline is not None, "ready means loaded"
        return self._pipeline

    def _enter(self, phase: str) -> None:
        now = time.monotonic()
        self._seconds[self._phase] = round(now - self._phase_began, 3)
        self._phase, self._phase_began = phase, now

    def _run(self) -> None:
        began = time.monotonic()
        try:
            self._pipeline = self._load(self._enter)
        except RagError as error:
            self._failure, self._state = error, "failed"
            _log.error(json.dumps({"event": "boot_failed", "phase": self._phase, **error.body()}, ensure_ascii=False))
        except Exception as error:
            self._failure, self._state = RagError(f"{type(error).__name__}: {error}"), "failed"
            _log.exception("loading failed in the phase %r", self._phase)
        else:
            self._enter("ready")
            self._state = "ready"
            seconds = {**self._seconds, "total": round(time.monotonic() - began, 3)}
            _log.info(json.dumps({"event": "ready", "seconds": seconds}))
            self._on_ready()
