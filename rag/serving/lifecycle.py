"""Loading in a background thread, and the state that /ping reports.

loading, phase by phase → ready; or failed, with the reason, for good. Once ready, the same thread restarts an engine
that has died, once, and closes expired sessions.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, Literal, TypeAlias, TypeVar

from rag.errors import Draining, Failed, NotReady, RagError
from rag.interfaces import KvUse, Servable, Usage

State: TypeAlias = Literal["loading", "ready", "failed"]
OnPhase: TypeAlias = Callable[[str], None]

_log = logging.getLogger(__name__)

_WATCH_S = 0.25
# An engine that dies this soon after its restart has died of the same fault; with this many, restarts do not help.
_AT_ONCE_S = 10.0
_MAX_FAULTS_IN_A_ROW = 3
_FIRST_BACKOFF_S = 0.25
_NICENESS = 5


Loaded = TypeVar("Loaded", bound=Servable)


class Boot(Generic[Loaded]):
    """Runs `load(on_phase)` once, in the background, and keeps its result.

    `on_ready` is called in that thread once requests are answered; `on_dead` after the engine could not be restarted.
    """

    def __init__(self, load: Callable[[OnPhase], Loaded], on_ready: Callable[[], None] = lambda: None) -> None:
        self._load = load
        self._on_ready = on_ready
        self._state: State = "loading"
        self._phase = "starting"
        self._failure: RagError | None = None
        self._result: Loaded | None = None
        self._seconds: dict[str, float] = {}
        self._phase_began = time.monotonic()
        self._closed = threading.Event()
        self._loaded_or_failed = threading.Event()
        self._revived_at = -math.inf
        self._faults_in_a_row = 0
        self.on_dead: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="boot", daemon=True)

    def start(self) -> None:
        """Start loading."""
        self._thread.start()

    def join(self) -> None:
        """Wait until loading has succeeded or failed."""
        self._loaded_or_failed.wait()

    def unready(self) -> NotReady | None:
        """Why requests can't be answered now, or None when they can."""
        if self._state == "failed":
            if isinstance(self._failure, Failed):
                return self._failure
            reason, remedy = (self._failure.message, self._failure.remedy) if self._failure else ("unknown", None)
            return Failed(f"failed: {reason}", field="phase", value="failed", remedy=remedy)
        if self._state == "loading":
            return NotReady(f"loading: {self._phase}", field="phase", value=self._phase, retry_after_s=1.0)
        if self._loaded.draining:
            return Draining("the container is shutting down", field="phase", value="draining", retry_after_s=1.0)
        if not self._loaded.alive:
            return NotReady("the engine has died", field="phase", value="dead", retry_after_s=1.0)
        return None

    def loaded(self) -> Loaded:
        """Raises NotReady with the phase or the reason."""
        unready = self.unready()
        if unready is not None:
            raise unready
        return self._loaded

    def usage(self) -> Usage:
        """The admission ledger now; zeros before loading has ended."""
        return self._result.usage() if self._result is not None else Usage()

    def kv_use(self) -> KvUse:
        """The use of KV memory now; zeros before loading has ended."""
        return self._result.kv_use() if self._result is not None else KvUse(0, 0)

    def drain(self, grace_s: float) -> None:
        """Before shutdown: refuse new work, and let running requests go on for `grace_s` seconds at most."""
        if self._state == "ready":
            self._loaded.drain(grace_s)

    def close(self) -> None:
        """Stop what was loaded. No request is answered afterwards."""
        self._closed.set()
        if self._state == "ready":
            self._loaded.close()

    @property
    def _loaded(self) -> Loaded:
        assert self._result is not None, "ready means loaded"
        return self._result

    def _enter(self, phase: str) -> None:
        now = time.monotonic()
        self._seconds[self._phase] = round(now - self._phase_began, 3)
        self._phase, self._phase_began = phase, now

    def _run(self) -> None:
        _lower_priority()
        began = time.monotonic()
        try:
            self._result = self._load(self._enter)
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
        finally:
            self._loaded_or_failed.set()
        if self._state == "ready":
            self._watch()

    def _watch(self) -> None:
        while not self._closed.wait(_WATCH_S):
            self._loaded.sweep()
            if self._loaded.alive or self._loaded.draining:
                continue
            if not self._revive():
                return

    def _revive(self) -> bool:
        """Restart the dead engine. Where it dies at once after each of several restarts, none helps."""
        died_at_once = time.monotonic() - self._revived_at < _AT_ONCE_S
        self._faults_in_a_row = self._faults_in_a_row + 1 if died_at_once else 0
        if self._faults_in_a_row < _MAX_FAULTS_IN_A_ROW:
            self._phase, self._state = "restarting the engine", "loading"
            _log.error(json.dumps({"event": "engine_died", "faults_in_a_row": self._faults_in_a_row}))
            self._closed.wait(_FIRST_BACKOFF_S * 2**self._faults_in_a_row if died_at_once else 0)
            try:
                self._loaded.revive()
            except Exception:
                _log.exception("the engine could not be restarted")
            else:
                self._revived_at = time.monotonic()
                self._state = "ready"
                _log.warning(json.dumps({"event": "engine_revived"}))
                return True
        self._failure = Failed("the engine has died", field="phase", value="dead", remedy="restart the container")
        self._state = "failed"
        self.on_dead()
        return False


def _lower_priority() -> None:
    """Lower the priority of this thread and of those that it starts: they compute, and /ping must not wait for them.

    At equal priority the kernel lets a computing thread finish its time slice, a millisecond, before it runs one that
    has just been woken.
    """
    if sys.platform == "linux":  # elsewhere a priority is the whole process's
        with contextlib.suppress(OSError):  # a sandbox may forbid it; it is not essential
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
