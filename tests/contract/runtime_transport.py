"""An httpx transport over a boto3 SageMaker Runtime client, so that the contract tests are the same for both.

Invocations become InvokeEndpoint, or InvokeEndpointWithResponseStream for streams; a ModelError becomes the container's
status and text again. Tests of paths that an endpoint does not expose are skipped.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError

_PREFIX = "X-Amzn-SageMaker-"
_STREAMED = ("text/event-stream", "application/jsonlines")
_PARAMETERS = {
    "Content-Type": "ContentType",
    "Accept": "Accept",
    f"{_PREFIX}Custom-Attributes": "CustomAttributes",
    f"{_PREFIX}Inference-Id": "InferenceId",
    f"{_PREFIX}Session-Id": "SessionId",
}
_RESPONSE_HEADERS = {
    "ContentType": "Content-Type",
    "CustomAttributes": f"{_PREFIX}Custom-Attributes",
    "NewSessionId": f"{_PREFIX}New-Session-Id",
    "ClosedSessionId": f"{_PREFIX}Closed-Session-Id",
}


class RuntimeTransport(httpx.BaseTransport):
    """Sends requests to /invocations to `endpoint` by `runtime`, a boto3 client."""

    def __init__(self, runtime: Any, endpoint: str) -> None:
        self._runtime = runtime
        self._endpoint = endpoint

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/invocations" or request.method != "POST":
            pytest.skip(f"an endpoint does not expose {request.method} {request.url.path}")
        body = request.read()
        parameters = {
            name: request.headers[header] for header, name in _PARAMETERS.items() if header in request.headers
        }
        try:
            if _streamed(request, body):
                call = self._runtime.invoke_endpoint_with_response_stream
            else:
                call = self._runtime.invoke_endpoint
            response = call(EndpointName=self._endpoint, Body=body, **parameters)
        except ClientError as error:
            return _refusal(error)
        headers = {header: response[name] for name, header in _RESPONSE_HEADERS.items() if name in response}
        return httpx.Response(200, headers=headers, stream=_Body(response["Body"]))


class _Body(httpx.SyncByteStream):
    """A plain body or the parts of a streamed one."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        if hasattr(self._body, "iter_chunks"):
            yield from self._body.iter_chunks()
            return
        for event in self._body:
            yield event["PayloadPart"]["Bytes"]

    def close(self) -> None:
        self._body.close()


def _streamed(request: httpx.Request, body: bytes) -> bool:
    if request.headers.get("Accept") in _STREAMED:
        return True
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(body)
        return isinstance(document, dict) and document.get("stream") is True
    return False


def _refusal(error: ClientError) -> httpx.Response:
    response: dict[str, Any] = dict(error.response)
    if response["Error"]["Code"] != "ModelError":
        return httpx.Response(response["ResponseMetadata"]["HTTPStatusCode"], json=response["Error"])
    headers = {"Content-Type": "application/json"}
    return httpx.Response(response["OriginalStatusCode"], headers=headers, content=response["OriginalMessage"].encode())
