"""The HTTP client of one service: a keep-alive pool, a circuit breaker, and the service's errors raised again here.

Retried are requests that were never sent (the connection was refused), and reads, which change nothing. A generation
that may have begun is never retried.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeAlias

from pydantic_core import from_json
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.connectionpool import connection_from_url
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

from rag.errors import RagError, Unreachable, rebuilt
from rag.remote.circuit_breaker import CircuitBreaker
from rag.remote.payloads import read_model_time


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished request to a service. `model_s` is the models' share of the time, where the service reported it."""

    service: str
    path: str
    sent_bytes: int
    received_bytes: int
    total_s: float
    model_s: float | None


OnExchange: TypeAlias = Callable[[Exchange], None]

_DURATION = re.compile(r"\bdur=([0-9.]+)")
_CONNECT_S = 1.0
_HEALTH_S = 1.5
_RETRY_DELAY_S = 0.05
# TCP keep-alive: connections to a host that has gone end after 20 s instead of never.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
]


class ServiceClient:
    """Thread-safe. `name` is the service's in errors, `timeout_s` the longest that a read may take."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout_s: float,
        connections: int = 32,
        circuit: CircuitBreaker | None = None,
        on_exchange: OnExchange = lambda exchange: None,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.circuit = circuit or CircuitBreaker()
        self._timeout_s = timeout_s
        self._on_exchange = on_exchange
        self._pool = connection_from_url(
            self.url, maxsize=connections, block=False, retries=False, socket_options=_SOCKET_OPTIONS
        )

    def health(self, path: str = "/health") -> bytes:
        """The description of a ready service; sent even while the circuit is open, and an answer closes it.

        Raises NotReady with its phase, Failed with its reason, or Unreachable.
        """
        return self._exchange("GET", path, None, _HEALTH_S).data

    def read(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer to a request that changes nothing; retried once where the connection failed at once.

        Raises Unreachable, or the error that the service answered with.
        """
        began = time.perf_counter()
        try:
            response = self._guarded(method, path, body, self._timeout_s)
        except _ConnectionFailed:
            time.sleep(_RETRY_DELAY_S)
            response = self._guarded(method, path, body, self._timeout_s)
        duration = _DURATION.search(response.headers.get("Server-Timing", ""))
        model_s = float(duration[1]) / 1e3 if duration else None
        self._report(path, body, len(response.data), began, model_s)
        return response.data

    def write(self, method: str, path: str) -> None:
        """A request that changes something, and that is safe to repeat; see `read`."""
        self.read(method, path)

    def lines(self, path: str, body: bytes, *, timeout_s: float) -> LineStream:
        """A POST whose answer is read line by line as it arrives; retried only where it was never sent.

        Raises as `read` does. `timeout_s` is the longest wait for the first line, and for each next one.
        """
        began = time.perf_counter()
        try:
            response = self._guarded("POST", path, body, timeout_s, preload=False)
        except _ConnectionFailed as error:
            if error.sent:
                raise
            time.sleep(_RETRY_DELAY_S)
            response = self._guarded("POST", path, body, timeout_s, preload=False)

        def report(received_bytes: int, model_s: float | None) -> None:
            self._report(path, body, received_bytes, began, model_s)

        return LineStream(self, response, report)

    def unreachable(self, reason: str, *, sent: bool, kind: type[Unreachable] = Unreachable) -> Unreachable:
        """The error of a service that did not answer; counts as a failure for the circuit breaker."""
        self.circuit.failed()
        return kind(f"the {self.name} service does not answer: {reason}", service=self.name, sent=sent)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _report(self, path: str, body: bytes | None, received_bytes: int, began: float, model_s: float | None) -> None:
        total_s = time.perf_counter() - began
        self._on_exchange(Exchange(self.name, path, len(body or b""), received_bytes, total_s, model_s))

    def _guarded(
        self, method: str, path: str, body: bytes | None, timeout_s: float, *, preload: bool = True
    ) -> BaseHTTPResponse:
        if not self.circuit.permits():
            raise Unreachable(
                f"the {self.name} service has not answered several times: the circuit breaker is open for a moment",
                service=self.name,
                sent=False,
                retry_after_s=max(1.0, self.circuit.retry_after_s),
            )
        return self._exchange(method, path, body, timeout_s, preload=preload)

    def _exchange(
        self, method: str, path: str, body: bytes | None, timeout_s: float, *, preload: bool = True
    ) -> BaseHTTPResponse:
        """One request and the start of its answer, or with `preload` all of it; reports to the circuit breaker."""
        try:
            response = self._pool.urlopen(
                method,
                path,
                body=body,
                headers={"Content-Type": "application/json"},
                timeout=Timeout(connect=_CONNECT_S, read=timeout_s),
                preload_content=preload,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise self.unreachable("the connection was refused", sent=False, kind=_ConnectionFailed) from error
        except ReadTimeoutError as error:
            raise self.unreachable(f"no data within {timeout_s:g} s", sent=True) from error
        except (HTTPError, OSError) as error:
            raise self.unreachable("it closed the connection", sent=True, kind=_ConnectionFailed) from error
        except BaseException:
            self.circuit.failed()  # a trial without an outcome would keep the circuit open for ever
            raise
        self.circuit.succeeded()
        if response.status != 200:
            raise _refused(self.name, response)
        return response


class LineStream:
    """The lines of an open answer. Closing it before the last one closes the connection, which the service detects."""

    def __init__(
        self, service: ServiceClient, response: BaseHTTPResponse, on_end: Callable[[int, float | None], None]
    ) -> None:
        self._service = service
        self._response = response
        self._lines = _lines_of(response)
        self._on_end = on_end
        self._received_bytes = 0
        self.model_s: float | None = None
        self._reading = threading.Lock()
        self._abandoned = False
        self._closed = False

    def __iter__(self) -> LineStream:
        return self

    def __next__(self) -> bytes:
        """The next line. Raises Unreachable on a time-out or a lost connection; ends where it was closed here."""
        with self._reading:
            try:
                line = next(self._lines)
            except StopIteration:
                self._end()
                raise
            except (HTTPError, OSError, ValueError) as error:
                self._end()
                if self._abandoned:
                    raise StopIteration from None
                timed_out = isinstance(error, ReadTimeoutError)
                reason = "its answer stopped" if timed_out else "the connection was lost in the middle of an answer"
                raise self._service.unreachable(reason, sent=True) from error
            self._received_bytes += len(line)
            return line

    def finish(self) -> None:
        """After the last delta: read to the end, so that the connection can be reused."""
        with contextlib.suppress(Unreachable):
            for line in self:
                self.model_s = read_model_time(line)

    def close(self) -> None:
        """Stop reading. May be called again, and while another thread waits for a line: that thread is woken."""
        self._abandoned = True
        if not self._closed:
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                self._response.shutdown()
        with self._reading:
            self._end()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._lines.close()
            self._response.close()  # after the last line the connection is back in the pool already
            self._on_end(self._received_bytes, self.model_s)


def _lines_of(response: BaseHTTPResponse) -> Generator[bytes, None, None]:
    yield from response


class _ConnectionFailed(Unreachable):
    """A connection that failed at once, so that a retry costs no wait."""


def _refused(name: str, response: BaseHTTPResponse) -> RagError:
    body = response.data  # reads it if necessary, and returns the connection to the pool
    try:
        return rebuilt(from_json(body))
    except (ValueError, AttributeError):
        return RagError(
            f"the {name} service answered with status {response.status}", remedy=f"see the {name} service's log"
        )
