"""What a call to an endpoint can fail with, read out of what the SageMaker Runtime says.

    CallFailed
    ├── InvalidRequest      the request is wrong; `field`, `value`, `limit` and `remedy` say how
    │   └── SessionClosed   the session was closed, has expired, or never was
    ├── DoesNotFit          the deployment cannot hold it; `fixes` are changes that were each checked to help
    ├── Overloaded          every place is taken; come back in `retry_after_s`
    ├── NotReady            loading, or the platform is making room
    ├── NoSuchEndpoint      no endpoint of that name is in service
    ├── TookTooLong         no answer within the platform's time
    ├── StreamBroken        the answer began and broke off
    ├── Unreachable         no connection, or no credentials: nothing was asked
    └── ServerFailed        the container or the platform failed

A container's refusal is JSON in ModelError's OriginalMessage; every member of it that says something is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ParamValidationError,
    ReadTimeoutError,
)

_LONGEST_LINE = 300


class CallFailed(Exception):  # noqa: N818 - named for what happened
    """The root. `retryable`: the very same call may succeed later. `document`: the container's refusal."""

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
        told = [self.message]
        if self.remedy:
            told.append(self.remedy)
        if self.fixes:
            told.append("any one of these helps: " + "; ".join(_fix_text(fix) for fix in self.fixes))
        return ". ".join(part.rstrip(".") for part in told)


class InvalidRequest(CallFailed):
    """The request itself is wrong."""


class SessionClosed(InvalidRequest):
    """The session was closed, has expired, or never was."""


class DoesNotFit(CallFailed):
    """The deployment cannot hold what was asked."""


class Overloaded(CallFailed):
    """Every place is taken."""


class NotReady(CallFailed):
    """Nobody can answer yet."""


class NoSuchEndpoint(CallFailed):
    """No endpoint of that name is in service."""


class TookTooLong(CallFailed):
    """No answer within the platform's time."""


class StreamBroken(CallFailed):
    """The answer began and broke off."""


class Unreachable(CallFailed):
    """Nothing was asked: no connection or no credentials."""


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
    # sizing's fixes are flags; a request's are fields to set, or settings to deploy with
    changed = fix.get("flags") or ", ".join(
        f"{prefix}{name}={value}"
        for prefix, changes in (("", fix.get("set", {})), ("deploy with ", fix.get("deploy", {})))
        for name, value in changes.items()
    )
    effect = fix.get("effect")
    return f"{changed} ({effect})" if effect else str(changed or fix)


def from_refusal(status: int, text: str) -> CallFailed:
    """The error of a container that answered `status` with `text`, its refusal as JSON where it is whole."""
    try:
        document = json.loads(text)["error"]
        message = str(document["message"])
    except (ValueError, KeyError, TypeError):  # not the project's container, or cut at 2,048 characters
        document, message = {}, " ".join(text.split())[:_LONGEST_LINE] or f"the container answered {status} and no text"
    if status == 0:
        return TookTooLong(message, status=status) if "timed out" in text else ServerFailed(message, status=status)
    kind = _BY_CODE.get(document.get("code", ""))
    if kind is None:
        kind = Overloaded if status == 429 else InvalidRequest if 400 <= status < 500 else ServerFailed
    return kind(message, status=status, document=document)


def from_event(event: Mapping[str, Any]) -> CallFailed:
    """The error of a stream whose last event is one."""
    document = event.get("error", event)
    return StreamBroken(str(document.get("message", "the stream ended with an error")), document=document)


def from_boto(error: Exception, endpoint: str) -> CallFailed:
    """The error that boto3's stands for."""
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
    told = response.get("Error", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", "") or response.get("Message", ""))
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
