"""From a started process to a ready one: loading runs in its own thread, and /ping asks how far it has come.

loading, phase by phase → ready; or failed, with the reason, for good. Once ready, the same thread watches: a generator
that has died is started over, once, and sessions that have expired are closed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar

from rag.admission.admission import Usage
from rag.errors import Draining, Failed, NotReady, RagError
from rag.interfaces import KvUse

State: TypeAlias = Literal["loading", "ready", "failed"]
OnPhase: TypeAlias = Callable[[str], None]

_log = logging.getLogger(__name__)

_WATCH_S = 0.25
_NICENESS = 5


class Servable(Protocol):
    """What loading brings: a pipeline, or the part of one that a service serves alone."""

    @property
    def alive(self) -> bool:
        """Whether it can still answer; once False it stays so until `revive`."""

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""

    def usage(self) -> Usage:
        """The ledger as it stands."""

    def kv_use(self) -> KvUse:
        """The KV memory as it is used."""

    def tend(self) -> None:
        """Called a few times a second: close what has expired."""

    def revive(self) -> None:
        """Start over what has died, and put a question to it. Raises where that can't be done."""

    def drain(self, grace_s: float) -> None:
        """Refuse new work from now on, and end what still runs after `grace_s` seconds."""

    def close(self) -> None:
        """Stop what runs inside."""


Loaded = TypeVar("Loaded", bound=Servable)


class Boot(Generic[Loaded]):
    """Runs `load(on_phase)` once, in the background, and holds what comes out.

    `on_ready` is called in that thread once requests are answered.
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
        self._over = threading.Event()
        self._loaded_or_failed = threading.Event()
        self._revived = False
        self._thread = threading.Thread(target=self._run, name="boot", daemon=True)

    def start(self) -> None:
        """Begin to load."""
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
            return Draining("the container is stopping", field="phase", value="draining", retry_after_s=1.0)
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
        """The ledger as it stands; empty before there is one."""
        return self._result.usage() if self._result is not None else Usage(0, 0, 0, 0, 0, 0)

    def kv_use(self) -> KvUse:
        """The generator's memory as it is used; nothing before there is one."""
        return self._result.kv_use() if self._result is not None else KvUse(0, 0)

    def drain(self, grace_s: float) -> None:
        """The container is to stop: refuse new work, and let what runs go on for `grace_s` seconds at most."""
        if self._state == "ready":
            self._loaded.drain(grace_s)

    def close(self) -> None:
        """Stop what was loaded. Nothing is answered afterwards."""
        self._over.set()
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
        _give_way()
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
        while not self._over.wait(_WATCH_S):
            self._loaded.tend()
            if self._loaded.alive or self._loaded.draining:
                continue
            if not self._revive():
                return

    def _revive(self) -> bool:
        """Start the dead generator over; the second time it stays dead, and only a restart helps."""
        if not self._revived:
            self._revived = True
            self._phase, self._state = "starting the engine over", "loading"
            _log.error(json.dumps({"event": "engine_died", "phase": self._phase}))
            try:
                self._loaded.revive()
            except Exception:
                _log.exception("the engine could not be started over")
            else:
                self._state = "ready"
                _log.warning(json.dumps({"event": "engine_revived"}))
                return True
        self._failure = Failed("the engine has died", field="phase", value="dead", remedy="restart the container")
        self._state = "failed"
        return False


def _give_way() -> None:
    """Let others go before this thread and those that it will start: these compute, and no /ping waits for a step.

    Without it the kernel lets a computing thread finish its turn, a millisecond, before one that was just woken runs.
    """
    if sys.platform == "linux":  # elsewhere priorities are of whole processes
        with contextlib.suppress(OSError):  # a sandbox may forbid it, and all works without
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
