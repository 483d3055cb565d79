"""A stand-in for the SageMaker Runtime in front of local containers, so that a real boto3 client talks to them.

As on the platform: /ping decides what is InService; the container gets only the headers that the platform forwards, the
client only those that it returns; an answer that is not 2xx becomes ModelError (424) with the original status and at
most 2,048 characters of the body; a plain answer has 60 s, a streamed one 8 min; a stream is cut into PayloadPart
events, here at random places where a random generator is given.

Assumed, not documented: an endpoint that is still Creating answers as one that does not exist; a container that times
out or closes the connection early is a ModelError with the original status 0.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3
from flask import Flask, Response, request
from urllib3.exceptions import HTTPError
from urllib3.exceptions import TimeoutError as RequestTimeout
from werkzeug.exceptions import HTTPException
from werkzeug.serving import WSGIRequestHandler, make_server

from deploy.local.eventstream import CONTENT_TYPE, payload_part, stream_error
from deploy.local.local_endpoint import IN_SERVICE, UNHEALTHY, Limits, LocalEndpoint

_ACCOUNT = "000000000000"
_PREFIX = "X-Amzn-SageMaker-"
_ACCEPT = f"{_PREFIX}Accept"
_ATTRIBUTES, _INFERENCE_ID, _SESSION_ID = (
    f"{_PREFIX}{name}" for name in ("Custom-Attributes", "Inference-Id", "Session-Id")
)
# Request headers forwarded to the container, and response headers returned to the client; all others (credentials,
# Retry-After, …) are dropped.
_TO_CONTAINER = (
    "Content-Type", "Accept", _ACCEPT, _ATTRIBUTES, _INFERENCE_ID, _SESSION_ID,
    *(f"{_PREFIX}Target-{name}" for name in ("Model", "Variant", "Container-Hostname")),
)  # fmt: skip
_TO_CLIENT = (_ATTRIBUTES, f"{_PREFIX}New-Session-Id", f"{_PREFIX}Closed-Session-Id")
_VARIANT = "AllTraffic"
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics for "
    "each container in Amazon CloudWatch, resolve the issue, and try again."
)
_CONNECT_S = 5.0
_NO_USER_AGENT = {"User-Agent": urllib3.util.SKIP_HEADER}  # urllib3 adds its own otherwise


class LocalRuntime:
    """The stand-in's server, a context manager. `url` is a client's `endpoint_url`; endpoints come and go by name.

    `chance` cuts every stream at random places; without it a part is what one read from the container returned.
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
        self._server = make_server(host, port, _create_app(self), threaded=True, request_handler=_RequestHandler)
        self.url = f"http://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="runtime", daemon=True)
        self._thread.start()

    def __enter__(self) -> LocalRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def serve(self, name: str, container_url: str) -> LocalEndpoint:
        """Put `container_url` behind the endpoint `name`; it takes invocations once its /ping returns 200."""
        endpoint = LocalEndpoint(name, container_url, self.limits)
        self.put(endpoint)
        return endpoint

    def put(self, endpoint: LocalEndpoint) -> None:
        """Route invocations to `endpoint` from now on, in place of an earlier one of the same name."""
        before = self._endpoints.get(endpoint.name)
        self._endpoints[endpoint.name] = endpoint
        if before is not None and before is not endpoint:
            before.close()

    def remove(self, name: str) -> None:
        """Remove an endpoint; no error where there is none."""
        endpoint = self._endpoints.pop(name, None)
        if endpoint is not None:
            endpoint.close()

    def endpoint(self, name: str) -> LocalEndpoint | None:
        """The endpoint of that name."""
        return self._endpoints.get(name)

    def close(self) -> None:
        """Stop the server and the /ping threads; the containers keep running."""
        self._server.shutdown()
        self._thread.join()
        for name in list(self._endpoints):
            self.remove(name)


class _RequestHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # with 1.0 werkzeug does not chunk a stream
    disable_nagle_algorithm = True

    def log(self, *_: Any) -> None:
        """No access log: the container writes one."""


class _Failure(Exception):  # noqa: N818 - an error response of the platform, not an error of this program
    """An error response: HTTP status, the runtime's name of the error, and the fields of its body."""

    def __init__(self, status: int, kind: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.body = {"Message": message, **fields}


def _create_app(runtime: LocalRuntime) -> Flask:
    app = Flask(__name__, static_folder=None)

    @app.post("/endpoints/<name>/invocations")
    def invoke_endpoint(name: str) -> Response:
        return _invoke(runtime, name, streamed=False)

    @app.post("/endpoints/<name>/invocations-response-stream")
    def invoke_endpoint_with_response_stream(name: str) -> Response:
        return _invoke(runtime, name, streamed=True)

    @app.errorhandler(_Failure)
    def refuse(failure: _Failure) -> Response:
        headers = {"x-amzn-ErrorType": failure.kind}
        return Response(json.dumps(failure.body), failure.status, headers, content_type="application/json")

    @app.errorhandler(HTTPException)
    def unknown(error: HTTPException) -> Response:
        message = f"{request.method} {request.path} is no operation of the runtime"
        return refuse(_Failure(error.code or 500, "UnknownOperationException", message))

    @app.after_request
    def add_headers(response: Response) -> Response:
        if response.status_code < 400:
            response.headers["x-Amzn-Invoked-Production-Variant"] = _VARIANT
        response.headers["x-amzn-RequestId"] = str(uuid.uuid4())
        return response

    return app


def _invoke(runtime: LocalRuntime, name: str, *, streamed: bool) -> Response:
    body, limits = request.get_data(), runtime.limits
    _validate(body, limits, streamed=streamed)
    endpoint = runtime.endpoint(name)
    if endpoint is None or endpoint.state not in (IN_SERVICE, UNHEALTHY):
        raise _Failure(400, "ValidationError", f"Endpoint {name} of account {_ACCOUNT} not found.")
    if endpoint.state == UNHEALTHY:
        raise _Failure(503, "ServiceUnavailable", "The service is unavailable. Try your call again.")
    limit_s = limits.stream_s if streamed else limits.plain_s
    try:
        with contextlib.ExitStack() as until_read:
            answer = _ContainerAnswer(endpoint.container_url, body, _forwarded(streamed=streamed), limit_s)
            until_read.callback(answer.close)
            if not 200 <= answer.status < 300:
                raise _model_error(runtime, name, answer.status, answer.read_all().decode(errors="replace"))
            if not streamed:
                return Response(answer.read_all(), 200, answer.headers, content_type=answer.content_type)
            headers = answer.headers | {f"{_PREFIX}Content-Type": answer.content_type}
            response = Response(_frames(answer, runtime.chance), 200, headers, content_type=CONTENT_TYPE)
            response.call_on_close(until_read.pop_all().close)
            return response
    except _Broken as broken:
        raise _model_error(runtime, name, 0, str(broken)) from broken


def _validate(body: bytes, limits: Limits, *, streamed: bool) -> None:
    if len(body) > limits.body_bytes:
        raise _Failure(400, "ValidationError", f"The body has {len(body)} bytes, above {limits.body_bytes}.")
    for name, longest in ((_ATTRIBUTES, 1024), (_INFERENCE_ID, 64), (_SESSION_ID, 256)):
        value = request.headers.get(name, "")
        if len(value) > longest or not value.isascii():
            raise _Failure(400, "ValidationError", f"{name}: at most {longest} ASCII characters.")
    if streamed and request.headers.get(_SESSION_ID) == "NEW_SESSION":
        raise _Failure(400, "ValidationError", "A session is opened by InvokeEndpoint, not by a stream.")


def _forwarded(*, streamed: bool) -> dict[str, str]:
    headers = {name: request.headers[name] for name in _TO_CONTAINER if name in request.headers}
    if streamed:  # the client's own Accept is about the frames; the container's is sent under another name
        headers.pop("Accept", None)
        if _ACCEPT in headers:
            headers["Accept"] = headers[_ACCEPT]
    return headers


def _model_error(runtime: LocalRuntime, name: str, status: int, text: str) -> _Failure:
    short = text[: runtime.limits.message_characters]
    side = "client" if 400 <= status < 500 else "server"
    logs = f"/aws/sagemaker/Endpoints/{name}"
    return _Failure(
        424,
        "ModelError",
        f'Received {side} error ({status}) from primary with message "{short}". See {logs} in account {_ACCOUNT} '
        "for more information.",
        OriginalStatusCode=status,
        OriginalMessage=short,
        LogStreamArn=f"arn:aws:logs:local:{_ACCOUNT}:log-group:{logs}",
    )


def _frames(answer: _ContainerAnswer, chance: random.Random | None) -> Iterator[bytes]:
    pieces = answer.pieces()
    try:
        yield from map(payload_part, pieces if chance is None else rechunked(pieces, chance))
    except _Broken as broken:
        yield stream_error(broken.code, str(broken))


class _Broken(Exception):  # noqa: N818 - the state of the container's answer, not an error of this program
    """The container timed out or closed the connection; `code` is the stream error's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _ContainerAnswer:
    """One request to a container and its answer, which must be complete within `limit_s`."""

    def __init__(self, container_url: str, body: bytes, headers: Mapping[str, str], limit_s: float) -> None:
        self._deadline = time.monotonic() + limit_s
        # A pool for this request alone: none of its connections can be stale, as one kept from an earlier request can.
        self._pool = urllib3.connection_from_url(container_url, retries=False)
        with self._errors():
            self._response = self._pool.request(
                "POST",
                "/invocations",
                body=body,
                headers={**_NO_USER_AGENT, **headers},
                timeout=urllib3.Timeout(connect=_CONNECT_S, total=limit_s),
                redirect=False,
                preload_content=False,
            )
        # urllib3's time-out is for one read. A body that arrives slowly is cut off at the deadline by this timer.
        self._timer = threading.Timer(self._deadline - time.monotonic(), self._end_reading)
        self._timer.daemon = True
        self._timer.start()
        self.status = self._response.status
        self.content_type = self._response.headers.get("Content-Type", "application/octet-stream")
        self.headers = {name: self._response.headers[name] for name in _TO_CLIENT if name in self._response.headers}

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises _Broken."""
        while True:
            with self._errors():
                piece = self._response.read1(1 << 16)
            if not piece:
                return
            yield piece

    def read_all(self) -> bytes:
        """The whole body. Raises _Broken."""
        return b"".join(self.pieces())

    def close(self) -> None:
        """Close the connection: a container that is still writing sees the disconnect."""
        self._timer.cancel()
        self._response.close()
        self._pool.close()

    def _end_reading(self) -> None:
        with contextlib.suppress(ValueError, RuntimeError, OSError):  # it has been read to its end meanwhile
            self._response.shutdown()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Translates what fails inside the block, or ends after the deadline. Raises _Broken."""
        try:
            yield
        except HTTPError as error:
            if not isinstance(error, RequestTimeout) and time.monotonic() < self._deadline:
                raise _Broken("StreamBroken", f"the connection to the container broke: {error!r}") from error
        else:
            if time.monotonic() < self._deadline:
                return
        raise _Broken("ModelInvocationTimeExceeded", _TIMED_OUT)


def rechunked(pieces: Iterator[bytes], chance: random.Random) -> Iterator[bytes]:
    """The same bytes cut elsewhere: pieces are split at random and the rest is joined to the next piece."""
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
