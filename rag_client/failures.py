"""The typed errors of a call to an endpoint, read from the SageMaker Runtime's response.

    CallFailed
    ├── InvalidRequest      the request is wrong; `field`, `value`, `limit` and `remedy` say how
    │   └── SessionClosed   the session is closed, expired or unknown
    ├── DoesNotFit          the deployment's memory cannot hold it; each of `fixes` is a change that was checked to help
    ├── Overloaded          at capacity; retry after `retry_after_s`
    ├── NotReady            loading, draining, or throttled by the platform
    ├── NoSuchEndpoint      no endpoint of that name is in service
    ├── TookTooLong         no answer within the platform's time limit
    ├── StreamBroken        the stream broke off after it had begun
    ├── Unreachable         no connection, or no credentials: nothing was sent
    └── ServerFailed        the container or the platform failed

A container's refusal is JSON in ModelError's OriginalMessage; its fields become the error's attributes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.eventstream import ParserError
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ParamValidationError,
    ReadTimeoutError,
)
from urllib3.exceptions import HTTPError

_LONGEST_LINE = 300


class CallFailed(Exception):  # noqa: N818 - named for what happened
    """The base class. `retryable`: the same call may succeed later. `document`: the container's refusal."""

    def __init__(self, message: str, *, status: int | None = None, document: Mapping[str, Any] | None = None) -> None:
        self.document: Mapping[str, Any] = document or {}
        self.message = message
        self.status = status
        self.code: str = self.document.get("code", "")
        self.retryable: bool = bool(self.document.get("retryable", False))
        self.retry_after_s: float | None = self.document.get("retry_after_s")
        self.field: str | None = self.document.get("field")
        self.value: object = self.document.get("value")
        self.limit: object = self.document.get("limit")
        self.remedy: str | None = self.document.get("remedy")
        self.fixes: tuple[Mapping[str, Any], ...] = tuple(self.document.get("fixes", ()))
        self.log_stream: str | None = None
        super().__init__(self._text())

    def _text(self) -> str:
        parts = [self.message]
        if self.remedy:
            parts.append(self.remedy)
        if self.fixes:
            parts.append("any one of these helps: " + "; ".join(_fix_text(fix) for fix in self.fixes))
        return ". ".join(part.rstrip(".") for part in parts)


class InvalidRequest(CallFailed):
    """The request is wrong."""


class SessionClosed(InvalidRequest):
    """The session is closed, expired or unknown."""


class DoesNotFit(CallFailed):
    """The deployment's memory cannot hold the request."""


class Overloaded(CallFailed):
    """The endpoint is at capacity."""


class NotReady(CallFailed):
    """The endpoint cannot answer yet."""


class NoSuchEndpoint(CallFailed):
    """No endpoint of that name is in service."""


class TookTooLong(CallFailed):
    """No answer within the platform's time limit."""


class StreamBroken(CallFailed):
    """The stream broke off after it had begun."""


class Unreachable(CallFailed):
    """No connection, or no credentials: nothing was sent."""


class ServerFailed(CallFailed):
    """The container or the platform failed."""


_BY_CODE: dict[str, type[CallFailed]] = {
    "does_not_fit": DoesNotFit,
    "overloaded": Overloaded,
    "not_ready": NotReady,
    "draining": NotReady,
    "session_closed": SessionClosed,
}
_WAIT_AND_RETRY = {"retryable": True}


def _fix_text(fix: Mapping[str, Any] | str) -> str:
    if isinstance(fix, str):
        return fix
    # Fixes by sizing are flags; fixes of a request are fields to set, or settings to deploy with.
    changed = fix.get("flags") or ", ".join(
        f"{prefix}{name}={value}"
        for prefix, changes in (("", fix.get("set", {})), ("deploy with ", fix.get("deploy", {})))
        for name, value in changes.items()
    )
    effect = fix.get("effect")
    return f"{changed} ({effect})" if effect else str(changed or fix)


def from_refusal(status: int, text: str) -> CallFailed:
    """The error of a container that answered `status` with `text`, its refusal as JSON unless it was truncated."""
    try:
        document = json.loads(text)["error"]
        message = str(document["message"])
    except (ValueError, KeyError, TypeError):  # not this project's container, or truncated at 2,048 characters
        document, message = {}, " ".join(text.split())[:_LONGEST_LINE] or f"the container answered {status} and no text"
    if status == 0:
        return TookTooLong(message, status=status) if "timed out" in text else ServerFailed(message, status=status)
    kind = _BY_CODE.get(document.get("code", ""))
    if kind is None:
        kind = Overloaded if status == 429 else InvalidRequest if 400 <= status < 500 else ServerFailed
    return kind(message, status=status, document=document)


def from_event(event: Mapping[str, Any]) -> CallFailed:
    """The error of a stream that ended with an error event."""
    document = event.get("error", event)
    return StreamBroken(str(document.get("message", "the stream ended with an error")), document=document)


@contextmanager
def translated(endpoint: str, *, not_json: type[CallFailed]) -> Iterator[None]:
    """Raises what boto3 and urllib3 raise inside the block as a CallFailed, and a ValueError as `not_json`."""
    try:
        yield
    except (BotoCoreError, ClientError, ParserError, HTTPError, OSError) as error:
        raise from_boto(error, endpoint) from error
    except ValueError as error:
        raise not_json(f"{endpoint}: the answer is no JSON: {error}") from error


def from_boto(error: Exception, endpoint: str) -> CallFailed:
    """The typed error of an error that boto3 raised."""
    if isinstance(error, ClientError):
        return _from_client_error(error, endpoint)
    if isinstance(error, ReadTimeoutError):
        return TookTooLong(f"{endpoint}: no answer in time")
    if isinstance(error, ParamValidationError):
        return InvalidRequest(f"{endpoint}: {' '.join(str(error).split())[:_LONGEST_LINE]}")
    if isinstance(error, ConnectionClosedError):
        return ServerFailed(f"{endpoint}: the connection was closed before the answer")
    line = " ".join(str(error).split())[:_LONGEST_LINE]
    return (
        Unreachable(f"{endpoint}: {line}") if isinstance(error, BotoCoreError) else StreamBroken(f"{endpoint}: {line}")
    )


def _from_client_error(error: ClientError, endpoint: str) -> CallFailed:
    response: dict[str, Any] = dict(error.response)
    details = response.get("Error", {})
    code, message = str(details.get("Code", "")), str(details.get("Message", "") or response.get("Message", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code == "ModelError":
        failure = from_refusal(int(response.get("OriginalStatusCode", 0)), str(response.get("OriginalMessage", "")))
        failure.log_stream = response.get("LogStreamArn")
        return failure
    line = f"{endpoint}: {message or code}"
    if code in ("ModelStreamError", "InternalStreamFailure"):
        return StreamBroken(line, status=status)
    if code in ("ModelNotReadyException", "ServiceUnavailable", "ThrottlingException"):
        return NotReady(line, status=status, document=_WAIT_AND_RETRY)
    if code == "ValidationError" and "not found" in message:
        return NoSuchEndpoint(line, status=status)
    if status is not None and 400 <= status < 500:
        return InvalidRequest(line, status=status)
    return ServerFailed(line, status=status)
