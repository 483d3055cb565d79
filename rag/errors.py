"""The exception hierarchy, and the table of its HTTP statuses.

    RagError
    ├── InvalidRequest          the body can't be parsed, or a field of it is wrong
    │   ├── PayloadTooLarge     a body above the size limit
    │   ├── RequestTimeout      the request did not arrive whole in time
    │   ├── RequestHeadTooLarge more bytes of headers than the cap
    │   ├── UnsupportedMedia    a Content-Type that is not supported
    │   ├── NotAcceptable       an Accept without a supported type
    │   ├── PromptTooLong       the question (or the requested output) can't fit this deployment's context
    │   └── SessionClosed       a session that is not open, or no longer
    ├── Overloaded              every place is taken: retry later
    ├── ClientGone              the client has disconnected
    ├── NotReady                models are still loading
    │   ├── Draining            the container is shutting down
    │   ├── Unreachable         a service behind this one does not answer
    │   └── Failed              loading failed or the engine died: only a restart helps
    │       └── DoesNotFit      the plan needs more memory than there is
    ├── GenerationFailed        the engine failed on this request
    │   └── OutOfMemory         the accelerator ran out of memory on it
    ├── ModelRefused            a model that can't run here, refused by name at load
    │   └── BackendRefused      one that this backend can't run; another may
    ├── IndexRefused            an index that is corrupt, of another format, or made by another embedder
    └── ArtifactRefused         an artifact with a file that is missing or damaged

An error names the field, the value, the limit and the remedy where it has them; a refusal by the plan also has
`figures`: requested, needed and free memory, in tokens and bytes, and fixes that pass the same check. Clients get
`body()`, which stays below 2,048 characters because SageMaker truncates a failed container's answer there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

_LONGEST_VALUE = 120
_MAX_INTEGER_BITS = 256
_LARGEST_BODY_BYTES = 1900


class RagError(Exception):
    """The base class. `retryable`: the same request may succeed later."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: object = None,
        limit: object = None,
        remedy: str | None = None,
        retry_after_s: float | None = None,
        figures: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value
        self.limit = limit
        self.remedy = remedy
        self.retry_after_s = retry_after_s
        self.figures = figures

    def body(self) -> dict[str, object]:
        """The JSON object for the client, without unset members."""
        parts: dict[str, object] = {"code": self.code, "message": self.message[:800], "retryable": self.retryable}
        if self.field is not None:
            parts["field"] = self.field[:_LONGEST_VALUE]
        if self.value is not None:
            parts["value"] = _shortened(self.value)
        if self.limit is not None:
            parts["limit"] = _shortened(self.limit)
        if self.remedy is not None:
            parts["remedy"] = self.remedy[:400]
        if self.retry_after_s is not None:
            parts["retry_after_s"] = self.retry_after_s
        parts.update(self.figures or {})
        return {"error": parts}


class InvalidRequest(RagError):  # noqa: N818 - named for what happened, like the rest of the tree
    """The request is wrong; sending it again unchanged can't help."""

    code = "invalid_request"


class PayloadTooLarge(InvalidRequest):
    """The body is above the size limit."""

    code = "payload_too_large"


class RequestTimeout(InvalidRequest):
    """The request did not arrive whole in time."""

    code = "request_timeout"


class RequestHeadTooLarge(InvalidRequest):
    """The headers have more bytes than the cap."""

    code = "headers_too_large"


class UnsupportedMedia(InvalidRequest):
    """A Content-Type that is not supported."""

    code = "unsupported_media"


class NotAcceptable(InvalidRequest):
    """An Accept without a supported type."""

    code = "not_acceptable"


class PromptTooLong(InvalidRequest):
    """The prompt or the requested output can't fit the context of this deployment."""

    code = "prompt_too_long"


class SessionClosed(InvalidRequest):
    """A session that was never opened here, has been closed, or has expired."""

    code = "session_closed"


class ClientGone(RagError):  # noqa: N818
    """The client disconnected while its request waited: for the log only."""

    code = "client_gone"


class Overloaded(RagError):  # noqa: N818
    """Memory, places and queue are taken."""

    code = "overloaded"
    retryable = True


class NotReady(RagError):  # noqa: N818
    """Still loading."""

    code = "not_ready"
    retryable = True


class Draining(NotReady):
    """The container is shutting down. Another one will answer."""

    code = "draining"


class Unreachable(NotReady):
    """A service behind this one does not answer. `sent`: it may have received the request."""

    code = "unreachable"

    def __init__(self, message: str, *, service: str, sent: bool, retry_after_s: float = 1.0) -> None:
        super().__init__(
            message,
            field="phase",
            value=f"{service}: unreachable",
            remedy=f"retry: the {service} service is being restarted, or see its log",
            retry_after_s=retry_after_s,
        )
        self.sent = sent


class Failed(NotReady):
    """Loading failed, or the engine died. The same container will not recover."""

    code = "failed"
    retryable = False


class DoesNotFit(Failed):
    """The plan needs more memory than there is. `refusal` is the capacity model's, with fixes that fit."""

    code = "does_not_fit"

    def __init__(self, refusal: Mapping[str, Any]) -> None:
        super().__init__(str(refusal["message"]))
        self.refusal = refusal

    def body(self) -> dict[str, object]:
        """The refusal, with as many of its fixes, best first, as the size limit allows."""
        figures = ("requested", "need_bytes", "have_bytes", "short_by_bytes", "largest_that_fits")
        parts: dict[str, Any] = {
            "code": self.code,
            "message": self.message[:800],
            "retryable": self.retryable,
            **{name: self.refusal[name] for name in figures},
            "fixes": [],
        }
        for fix in self.refusal["fixes"]:
            longer = [*parts["fixes"], {"flags": fix["flags"], "effect": fix["effect"]}]
            if len(json.dumps({**parts, "fixes": longer}, ensure_ascii=False).encode()) > _LARGEST_BODY_BYTES:
                break
            parts["fixes"] = longer
        return {"error": parts}


class GenerationFailed(RagError):  # noqa: N818
    """The engine failed on this request only."""

    code = "generation_failed"


class OutOfMemory(GenerationFailed):
    """The accelerator ran out of memory on this request; the container admits less from now on."""

    code = "out_of_memory"
    retryable = True


class ModelRefused(RagError):  # noqa: N818
    """A model that can't run here, with its name and the reason."""

    code = "model_refused"


class BackendRefused(ModelRefused):
    """A model that the chosen backend can't run, though another one may."""


class IndexRefused(RagError):  # noqa: N818
    """An index that is corrupt, of another format, or made by another embedder."""

    code = "index_refused"


class ArtifactRefused(RagError):  # noqa: N818
    """An artifact with a file that is missing, damaged, or not in its manifest."""

    code = "artifact_refused"


_STATUS: dict[type[RagError], int] = {
    InvalidRequest: 400,
    PayloadTooLarge: 413,
    RequestTimeout: 408,
    RequestHeadTooLarge: 431,
    UnsupportedMedia: 415,
    NotAcceptable: 406,
    PromptTooLong: 422,
    SessionClosed: 404,
    Overloaded: 429,
    ClientGone: 499,
    NotReady: 503,
    GenerationFailed: 500,
    OutOfMemory: 503,
    ModelRefused: 503,
    IndexRefused: 503,
    ArtifactRefused: 503,
    RagError: 500,
}


def status_of(error: RagError) -> int:
    """The HTTP status of `error`: of its class, else of the nearest base class."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def rebuilt(document: Mapping[str, Any]) -> RagError:
    """The error whose `body()` another process sent as `document`, to be raised again unchanged.

    Raises ValueError where `document` is not the body of an error.
    """
    parts = document.get("error")
    if not isinstance(parts, dict) or not isinstance(parts.get("message"), str):
        raise ValueError(f"not the body of an error: {str(document)[:200]}")  # noqa: TRY004 - a value, of the right type
    kind = _BY_CODE.get(str(parts.get("code")), RagError)
    if issubclass(kind, DoesNotFit):
        return DoesNotFit(parts)
    if issubclass(kind, Unreachable):
        kind = NotReady  # only the other process knows whether it was sent
    named = {name: parts.get(name) for name in ("field", "value", "limit", "remedy", "retry_after_s")}
    figures = {name: part for name, part in parts.items() if name not in (*named, "code", "message", "retryable")}
    return kind(parts["message"], **named, figures=figures)


def _tree(kind: type[RagError]) -> Iterator[type[RagError]]:
    yield kind
    for subclass in kind.__subclasses__():
        yield from _tree(subclass)


_BY_CODE = {kind.code: kind for kind in _tree(RagError)}


def _shortened(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity
    if isinstance(value, int) and value.bit_length() > _MAX_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
