"""Starts the services, polls their health, restarts one that dies, and stops them in order.

A service that exits, stops answering or reports a dead engine is restarted, with a back-off that doubles while it keeps
failing. One whose loading failed is not, since its /health gives the reason and a restart would fail the same way. On
SIGTERM the orchestrator stops first, once its running requests have ended, then the services behind it.
"""

from __future__ import annotations

import ctypes
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.errors import Failed, NotReady, RagError, Unreachable
from rag.remote.http_client import ServiceClient

_log = logging.getLogger(__name__)

_SERVE = Path(__file__).resolve().parents[1] / "serve"
_TICK_S = 0.1
_POLL_READY_S = 1.0
_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.2, 30.0
_STABLE_S = 30.0  # a service that was ready for this long is restarted with the shortest delay
_LONGEST_SILENCE_S = 30.0
_DRAIN_S, _STOP_S = (
    26.0,
    29.0,
)  # limits after SIGTERM: orchestrator, all; SageMaker kills after 30
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """The command of a service, and where its health is polled."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    url: str
    health_path: str = "/health"


class Child:
    """One service: its process, its health, and its restarts."""

    def __init__(self, spec: ServiceSpec) -> None:
        self.spec = spec
        self.phase = "stopped"
        self.restarts = -1
        self._service = ServiceClient(spec.name, spec.url, timeout_s=1.0, connections=1)
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._delay_s = _FIRST_DELAY_S
        self._next_poll = 0.0
        self._ready_since: float | None = None
        self._last_answer: float | None = None

    def tick(self, now: float) -> None:
        """Start the process or poll its health, if that is due at `now` (seconds, monotonic)."""
        if self._process is None:
            if now >= self._start_at:
                self._start()
            return
        status = self._process.poll()
        if status is not None:
            self._ended(now, f"ended with status {status}")
        elif now >= self._next_poll:
            self._poll(now)

    def stop(self, limit_s: float) -> None:
        """SIGTERM, then SIGKILL if it has not ended within `limit_s`."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            _log_event("killed", self.spec.name, reason=f"did not end within {limit_s:g} s")
            self._process.kill()
            self._process.wait()

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            list(self.spec.command),
            env=dict(self.spec.environment),
            preexec_fn=_end_with_parent,  # noqa: PLW1509 - no other thread runs while services are started
        )
        self.restarts += 1
        self.phase = "starting"
        self._ready_since = self._last_answer = None
        self._next_poll = 0.0
        _log_event("started", self.spec.name, pid=self._process.pid, restarts=self.restarts)

    def _ended(self, now: float, reason: str) -> None:
        stable = self._ready_since is not None and now - self._ready_since > _STABLE_S
        self._delay_s = _FIRST_DELAY_S if stable else self._delay_s
        _log_event("ended", self.spec.name, reason=reason, restart_in_s=self._delay_s)
        self._process = None
        self.phase = "stopped"
        self._start_at = now + self._delay_s
        self._delay_s = min(_LONGEST_DELAY_S, 2 * self._delay_s)

    def _poll(self, now: float) -> None:
        was = self.phase
        try:
            self._service.health(self.spec.health_path)
        except Unreachable:
            self.phase = "unreachable" if was != "starting" else was
        except NotReady as error:
            self._last_answer = now
            self.phase = f"failed: {error.message}" if isinstance(error, Failed) else str(error.value)
            if isinstance(error, Failed) and error.value == "dead":
                self._kill(now, error.message)
        except RagError as error:
            self.phase = error.message
        else:
            self._last_answer = now
            self._ready_since = self._ready_since or now
            self.phase = "ready"
        if self.phase != was:
            _log_event("phase", self.spec.name, phase=self.phase)
        silent = self._last_answer is not None and now - self._last_answer > _LONGEST_SILENCE_S
        if self.phase == "unreachable" and silent:
            self._kill(now, f"no answer for {_LONGEST_SILENCE_S:g} s")
        self._next_poll = now + (_POLL_READY_S if self.phase == "ready" else _TICK_S)

    def _kill(self, now: float, reason: str) -> None:
        assert self._process is not None, "only a running process is polled"
        self._process.kill()
        self._process.wait()
        self._ended(now, reason)


class Supervisor:
    """Runs until SIGTERM or SIGINT. The first of `specs`, the orchestrator, is stopped before the others."""

    def __init__(self, specs: Sequence[ServiceSpec], clock: Callable[[], float] = time.monotonic) -> None:
        self.children = [Child(spec) for spec in specs]
        self._clock = clock
        self._stopping = threading.Event()

    def run(self) -> int:
        """Returns the exit status, 0, once all services have ended."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._forward_signal)
        try:
            while not self._stopping.wait(_TICK_S):
                for child in self.children:
                    child.tick(self._clock())
        finally:
            self._stop_all()
        return 0

    def _forward_signal(self, number: int, _frame: object) -> None:
        for child in self.children:
            child.send(number)

    def _stop_all(self) -> None:
        first, *others = self.children
        began = self._clock()
        first.stop(_DRAIN_S)
        left_s = _STOP_S - (self._clock() - began)
        threads = [threading.Thread(target=child.stop, args=(left_s,)) for child in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def service_specs(
    environment: Mapping[str, str],
    *,
    port: int,
    vector_port: int,
    llm_port: int,
    vector_url: str | None,
    llm_url: str | None,
    arguments: Sequence[str] = (),
) -> list[ServiceSpec]:
    """The orchestrator, and each service that has no URL; `arguments` are for the orchestrator."""
    internal = {**environment, "HOST": "127.0.0.1"}
    vector_at, llm_at = (f"http://127.0.0.1:{number}" for number in (vector_port, llm_port))
    orchestrated = {**environment, "VECTOR_URL": vector_url or vector_at, "LLM_URL": llm_url or llm_at}
    specs = [
        ServiceSpec(
            "orchestrator", _command("orchestrator", *arguments), orchestrated, f"http://127.0.0.1:{port}", "/ping"
        )
    ]
    if vector_url is None:
        # A GPU is for the LLM alone: two processes on one GPU would each plan for all of its memory.
        specs.append(ServiceSpec("vector", _command("vector"), {**internal, "DEVICE": "cpu"}, vector_at))
    if llm_url is None:
        specs.append(ServiceSpec("llm", _command("llm"), internal, llm_at))
    return specs


def _command(variant: str, *arguments: str) -> list[str]:
    return [sys.executable, str(_SERVE), "--variant", variant, *arguments]


def _end_with_parent() -> None:
    """In the child, before exec: SIGTERM when the supervisor dies, so that a killed one leaves no process behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _log_event(event: str, name: str, **more: object) -> None:
    _log.info(json.dumps({"event": f"service_{event}", "name": name, **more}, ensure_ascii=False))
