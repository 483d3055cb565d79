"""A stand-in for the SageMaker Runtime in front of local containers, so that a real boto3 client talks to them.

As on the platform: InService is decided by /ping; headers that the platform keeps from a container are kept from it;
an answer that is not 2xx becomes ModelError (424) with the original status and at most 2,048 characters of the body; a
plain answer has 60 s, a streamed one 8 min; a stream is cut into PayloadPart events, here at random places where a
generator of random numbers is given.

Believed rather than documented: an endpoint that is still Creating answers as one that does not exist; a container that
answers nothing in time, or breaks off, is a ModelError with the original status 0.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from deploy.local.eventstream import CONTENT_TYPE, payload_part, stream_error
from deploy.local.local_endpoint import IN_SERVICE, UNHEALTHY, Limits, LocalEndpoint

_ACCOUNT = "000000000000"
_PREFIX = "X-Amzn-SageMaker-"
_ACCEPT = f"{_PREFIX}Accept"
_ATTRIBUTES, _INFERENCE_ID, _SESSION_ID = (
    f"{_PREFIX}{name}" for name in ("Custom-Attributes", "Inference-Id", "Session-Id")
)
# What a container sees of a request, and a client of an answer. The rest (credentials, Retry-After, …) stays here.
_TO_CONTAINER = (
    "Content-Type", "Accept", _ACCEPT, _ATTRIBUTES, _INFERENCE_ID, _SESSION_ID,
    *(f"{_PREFIX}Target-{name}" for name in ("Model", "Variant", "Container-Hostname")),
)  # fmt: skip
_TO_CLIENT = (_ATTRIBUTES, f"{_PREFIX}New-Session-Id", f"{_PREFIX}Closed-Session-Id")
_PATH = re.compile(r"^/endpoints/([^/]+)/invocations(-response-stream)?$")
_VARIANT = "AllTraffic"
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)


class LocalRuntime:
    """The stand-in's server: a context manager whose `url` is a client's `endpoint_url`. Endpoints come and go by name.

    `chance` re-chunks every stream at random places; without it a part is what one read from the container gave.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: Limits | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.chance = chance
        self._endpoints: dict[str, LocalEndpoint] = {}
        self._server = _Server((host, port), self)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="runtime", daemon=True)
        self._thread.start()

    def __enter__(self) -> LocalRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve(self, name: str, container_url: str) -> LocalEndpoint:
        """Put `container_url` behind the endpoint `name`; invocations reach it once its /ping says 200."""
        endpoint = LocalEndpoint(name, container_url, self.limits)
        self.put(endpoint)
        return endpoint

    def put(self, endpoint: LocalEndpoint) -> None:
        """Let `endpoint` answer from now on, in place of the one that had its name."""
        before = self._endpoints.get(endpoint.name)
        self._endpoints[endpoint.name] = endpoint
        if before is not None and before is not endpoint:
            before.close()

    def remove(self, name: str) -> None:
        """Forget an endpoint; no error where there is none."""
        endpoint = self._endpoints.pop(name, None)
        if endpoint is not None:
            endpoint.close()

    def endpoint(self, name: str) -> LocalEndpoint | None:
        """The endpoint of that name."""
        return self._endpoints.get(name)

    def close(self) -> None:
        """Stop listening and asking; the containers are left alone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for name in list(self._endpoints):
            self.remove(name)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], runtime: LocalRuntime) -> None:
        self.runtime = runtime
        super().__init__(address, _Invocation)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-answer is nothing to report."""


class _Failure(Exception):  # noqa: N818 - an answer of the platform, not of this program
    """An error answer: HTTP status, the runtime's name for it, and the members of its body."""

    def __init__(self, status: int, kind: str, message: str, **members: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.members = {"Message": message, **members}


class _Invocation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_POST(self) -> None:
        """One invocation, plain or streamed."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = _PATH.match(urlsplit(self.path).path)
        try:
            if found is None:
                self._refuse(_Failure(404, "UnknownOperationException", f"{self.path} is no operation of the runtime"))
            else:
                self._invoke(unquote(found[1]), body, streamed=found[2] is not None)
        except _Failure as failure:
            self._refuse(failure)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Quiet: the container has a log of its own."""

    def _invoke(self, name: str, body: bytes, *, streamed: bool) -> None:
        limits = self.server.runtime.limits
        self._validate(body, limits, streamed=streamed)
        endpoint = self.server.runtime.endpoint(name)
        if endpoint is None or endpoint.state not in (IN_SERVICE, UNHEALTHY):
            raise _Failure(400, "ValidationError", f"Endpoint {name} of account {_ACCOUNT} not found.")
        if endpoint.state == UNHEALTHY:
            raise _Failure(503, "ServiceUnavailable", "The service is unavailable. Try your call again.")
        deadline = time.monotonic() + (limits.stream_s if streamed else limits.plain_s)
        answer = None
        try:
            answer = _ContainerAnswer(endpoint, body, self._forwarded(streamed), deadline)
            if not 200 <= answer.status < 300:
                raise self._model_error(endpoint, answer.status, answer.read_all().decode(errors="replace"))
            if streamed:
                self._stream(answer)
            else:
                self._respond(200, answer.headers | {"Content-Type": answer.content_type}, answer.read_all())
        except _Broken as broken:
            raise self._model_error(endpoint, 0, str(broken)) from broken
        finally:
            if answer is not None:
                answer.close()

    def _validate(self, body: bytes, limits: Limits, *, streamed: bool) -> None:
        if len(body) > limits.body_bytes:
            raise _Failure(400, "ValidationError", f"The body has {len(body)} bytes, above {limits.body_bytes}.")
        for name, longest in ((_ATTRIBUTES, 1024), (_INFERENCE_ID, 64), (_SESSION_ID, 256)):
            value = self.headers.get(name, "")
            if len(value) > longest or not value.isascii():
                raise _Failure(400, "ValidationError", f"{name}: at most {longest} ASCII characters.")
        if streamed and self.headers.get(_SESSION_ID) == "NEW_SESSION":
            raise _Failure(400, "ValidationError", "A session is begun by InvokeEndpoint, not by a stream.")

    def _forwarded(self, streamed: bool) -> dict[str, str]:
        headers = {name: self.headers[name] for name in _TO_CONTAINER if self.headers.get(name) is not None}
        if streamed:  # the client's Accept travels under another name; its own Accept speaks of the frames
            headers.pop("Accept", None)
            if _ACCEPT in headers:
                headers["Accept"] = headers[_ACCEPT]
        return headers

    def _model_error(self, endpoint: LocalEndpoint, status: int, text: str) -> _Failure:
        short = text[: self.server.runtime.limits.message_characters]
        side = "client" if 400 <= status < 500 else "server"
        logs = f"/aws/sagemaker/Endpoints/{endpoint.name}"
        return _Failure(
            424,
            "ModelError",
            f'Received {side} error ({status}) from primary with message "{short}". See {logs} in account {_ACCOUNT} '
            "for more information.",
            OriginalStatusCode=status,
            OriginalMessage=short,
            LogStreamArn=f"arn:aws:logs:local:{_ACCOUNT}:log-group:{logs}",
        )

    def _stream(self, answer: _ContainerAnswer) -> None:
        headers = answer.headers | {"Content-Type": CONTENT_TYPE, f"{_PREFIX}Content-Type": answer.content_type}
        self._begin(200, headers | {"Transfer-Encoding": "chunked"})
        chance = self.server.runtime.chance
        pieces = answer.pieces()
        try:
            for piece in pieces if chance is None else rechunked(pieces, chance):
                self._chunk(payload_part(piece))
        except _Broken as broken:
            self._chunk(stream_error(broken.code, str(broken)))
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _refuse(self, failure: _Failure) -> None:
        headers = {"Content-Type": "application/json", "x-amzn-ErrorType": failure.kind}
        self._respond(failure.status, headers, json.dumps(failure.members).encode())

    def _respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._begin(status, {**headers, "Content-Length": str(len(body))})
        self.wfile.write(body)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status < 400:
            self.send_header("x-Amzn-Invoked-Production-Variant", _VARIANT)
        self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
        self.end_headers()


class _Broken(Exception):  # noqa: N818 - what happened to the container's answer
    """The container took too long or went away; `code` is the stream error's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _ContainerAnswer:
    """One request to a container and its answer, read against a deadline (of time.monotonic)."""

    def __init__(self, endpoint: LocalEndpoint, body: bytes, headers: Mapping[str, str], deadline: float) -> None:
        where = urlsplit(endpoint.container_url)
        self._deadline = deadline
        self._connection = http.client.HTTPConnection(where.hostname or "127.0.0.1", where.port or 80, timeout=5)
        self._socket: socket.socket | None = None
        try:
            with self._watched():
                self._connection.connect()
            self._socket = self._connection.sock
            with self._watched():
                self._connection.request("POST", "/invocations", body, dict(headers))
                self._response = self._connection.getresponse()
        except _Broken:
            self._connection.close()
            raise
        self.status = self._response.status
        self.content_type = self._response.headers.get("Content-Type", "application/octet-stream")
        self.headers = {
            name: self._response.headers[name] for name in _TO_CLIENT if self._response.headers.get(name) is not None
        }

    def pieces(self) -> Iterator[bytes]:
        """The body as it comes. Raises _Broken."""
        while True:
            with self._watched():
                piece = self._response.read1(1 << 16)
                if not piece and self._response.length:
                    raise http.client.IncompleteRead(b"", self._response.length)
            if not piece:
                return
            yield piece

    def read_all(self) -> bytes:
        """The whole body. Raises _Broken."""
        return b"".join(self.pieces())

    def close(self) -> None:
        """Let go of the container: it sees that its client has gone where it was still writing."""
        self._response.close()
        self._connection.close()

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Gives a block of reading what is left until the deadline, and what goes wrong in it its name."""
        if self._socket is not None:
            self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        try:
            yield
        except TimeoutError as error:
            raise _Broken("ModelInvocationTimeExceeded", _TIMED_OUT) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Broken("StreamBroken", f"the connection to the container broke: {error!r}") from error
        if time.monotonic() > self._deadline:
            raise _Broken("ModelInvocationTimeExceeded", _TIMED_OUT)


def rechunked(pieces: Iterator[bytes], chance: random.Random) -> Iterator[bytes]:
    """The same bytes cut elsewhere: pieces are split at random and their ends joined to what comes next."""
    held = b""
    try:
        for piece in pieces:
            held += piece
            while len(held) > 1 and chance.random() < 0.7:
                cut = chance.randrange(1, len(held))
                yield held[:cut]
                held = held[cut:]
    except _Broken:
        if held:
            yield held
        raise
    if held:
        yield held
