"""One service at one URL: a keep-alive pool, a circuit breaker, and errors that arrive as they were raised.

What may be asked twice: what was never sent (the connection was refused), and reads, which change nothing. A
generation that may have begun is asked for once.
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
from rag.remote.circuit_breaker import Circuit
from rag.remote.payloads import read_model_time


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to a service that is over. `model_s` is what the models took of it, where the service said so."""

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
_BEFORE_SECOND_TRY_S = 0.05
# A host that has vanished answers no probe: its connections end after 20 s instead of never.
_SOCKET_OPTIONS = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
]


class Service:
    """Safe to use from many threads. `name` is what errors call it, `timeout_s` how long a read may take."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        timeout_s: float,
        connections: int = 32,
        circuit: Circuit | None = None,
        on_exchange: OnExchange = lambda exchange: None,
    ) -> None:
        self.name = name
        self.url = url.rstrip("/")
        self.circuit = circuit or Circuit()
        self._timeout_s = timeout_s
        self._on_exchange = on_exchange
        self._pool = connection_from_url(
            self.url, maxsize=connections, block=False, retries=False, socket_options=_SOCKET_OPTIONS
        )

    @property
    def connections_made(self) -> int:
        """Connections opened so far; far fewer than exchanges where they are kept."""
        return self._pool.num_connections

    def health(self, path: str = "/health") -> bytes:
        """What the service says of itself once it is ready; asked even while the circuit is open, and closes it.

        Raises NotReady with its phase, Failed with its reason, or Unreachable.
        """
        return self._exchange("GET", path, None, _HEALTH_S).data

    def read(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The answer to a request that changes nothing; asked a second time where the connection broke at once.

        Raises Unreachable, or the very error that the service answered with.
        """
        began = time.perf_counter()
        try:
            response = self._guarded(method, path, body, self._timeout_s)
        except _Broken:
            time.sleep(_BEFORE_SECOND_TRY_S)
            response = self._guarded(method, path, body, self._timeout_s)
        told = _DURATION.search(response.headers.get("Server-Timing", ""))
        model_s = float(told[1]) / 1e3 if told else None
        self._over(path, body, len(response.data), began, model_s)
        return response.data

    def write(self, method: str, path: str) -> None:
        """A request that changes something, and that may be repeated without harm; see `read`."""
        self.read(method, path)

    def lines(self, path: str, body: bytes, *, silence_s: float) -> Lines:
        """A POST whose answer is read line by line as it comes; asked a second time only where it was never sent.

        Raises as `read` does. `silence_s` is the longest wait for the beginning, and for each line.
        """
        began = time.perf_counter()
        try:
            response = self._guarded("POST", path, body, silence_s, preload=False)
        except _Broken as error:
            if error.sent:
                raise
            time.sleep(_BEFORE_SECOND_TRY_S)
            response = self._guarded("POST", path, body, silence_s, preload=False)

        def over(received_bytes: int, model_s: float | None) -> None:
            self._over(path, body, received_bytes, began, model_s)

        return Lines(self, response, over)

    def broke(self, reason: str, *, sent: bool, kind: type[Unreachable] = Unreachable) -> Unreachable:
        """Note that the service did not answer, and give the error that says so."""
        self.circuit.failed()
        return kind(f"the {self.name} service does not answer: {reason}", service=self.name, sent=sent)

    def close(self) -> None:
        """Close the idle connections."""
        self._pool.close()

    def _over(self, path: str, body: bytes | None, received_bytes: int, began: float, model_s: float | None) -> None:
        total_s = time.perf_counter() - began
        self._on_exchange(Exchange(self.name, path, len(body or b""), received_bytes, total_s, model_s))

    def _guarded(
        self, method: str, path: str, body: bytes | None, silence_s: float, *, preload: bool = True
    ) -> BaseHTTPResponse:
        if not self.circuit.permits():
            raise Unreachable(
                f"the {self.name} service has not answered several times: it is left alone for a moment",
                service=self.name,
                sent=False,
                retry_after_s=max(1.0, self.circuit.retry_after_s),
            )
        return self._exchange(method, path, body, silence_s, preload=preload)

    def _exchange(
        self, method: str, path: str, body: bytes | None, silence_s: float, *, preload: bool = True
    ) -> BaseHTTPResponse:
        """One request and its answer's beginning, or with `preload` the whole of it; the circuit is told."""
        try:
            response = self._pool.urlopen(
                method,
                path,
                body=body,
                headers={"Content-Type": "application/json"},
                timeout=Timeout(connect=_CONNECT_S, read=silence_s),
                preload_content=preload,
            )
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise self.broke("nobody listens at its address", sent=False, kind=_Broken) from error
        except ReadTimeoutError as error:
            raise self.broke(f"nothing came within {silence_s:g} s", sent=True) from error
        except (HTTPError, OSError) as error:
            raise self.broke("it closed the connection", sent=True, kind=_Broken) from error
        except BaseException:
            self.circuit.failed()  # a trial that is never reported would keep the circuit open for good
            raise
        self.circuit.succeeded()
        if response.status != 200:
            raise _refused(self.name, response)
        return response


class Lines:
    """The lines of an open answer. Closing it before the last one drops the connection, which the service notices."""

    def __init__(
        self, service: Service, response: BaseHTTPResponse, on_end: Callable[[int, float | None], None]
    ) -> None:
        self._service = service
        self._response = response
        self._lines = _lines_of(response)
        self._on_end = on_end
        self._received_bytes = 0
        self.model_s: float | None = None
        self._reading = threading.Lock()
        self._left = False
        self._closed = False

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> bytes:
        """The next line. Raises Unreachable where the service fell silent or went away; ends where it was closed."""
        with self._reading:
            try:
                line = next(self._lines)
            except StopIteration:
                self._end()
                raise
            except (HTTPError, OSError, ValueError) as error:
                self._end()
                if self._left:
                    raise StopIteration from None
                silent = isinstance(error, ReadTimeoutError)
                reason = "its answer stopped coming" if silent else "it went away in the middle of an answer"
                raise self._service.broke(reason, sent=True) from error
            self._received_bytes += len(line)
            return line

    def finish(self) -> None:
        """After the last delta: read to the end, so that the connection can be used again."""
        with contextlib.suppress(Unreachable):
            for line in self:
                self.model_s = read_model_time(line)

    def close(self) -> None:
        """Leave. May be called again, and while another thread waits for a line: that one is woken."""
        self._left = True
        if not self._closed:
            with contextlib.suppress(RuntimeError, ValueError, OSError):
                self._response.shutdown()
        with self._reading:
            self._end()

    def _end(self) -> None:
        if not self._closed:
            self._closed = True
            self._lines.close()
            self._response.close()  # after the last line the connection has gone back to the pool already
            self._on_end(self._received_bytes, self.model_s)


def _lines_of(response: BaseHTTPResponse) -> Generator[bytes, None, None]:
    yield from response


class _Broken(Unreachable):
    """A connection that failed at once, so that trying again costs no wait."""


def _refused(name: str, response: BaseHTTPResponse) -> RagError:
    body = response.data  # reads it where it was not, and gives the connection back
    try:
        return rebuilt(from_json(body))
    except (ValueError, AttributeError):
        return RagError(
            f"the {name} service answered with status {response.status}", remedy=f"see the {name} service's log"
        )
