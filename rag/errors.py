"""What can go wrong, as one tree, and the one table that gives each error its HTTP status.

    RagError
    ├── InvalidRequest          the body can't be read, or a field of it is wrong
    │   ├── PayloadTooLarge     more bytes than the cap
    │   ├── UnsupportedMedia    a Content-Type that is not spoken here
    │   ├── NotAcceptable       an Accept that is not spoken here
    │   ├── PromptTooLong       the question (or the output asked for) can't fit this deployment's context
    │   └── SessionClosed       a session that is not open, or no longer
    ├── Overloaded              every place is taken: come back later
    ├── ClientGone              nobody waits for the answer any more
    ├── NotReady                models are still loading
    │   ├── Draining            the container stops: another one answers
    │   ├── Unreachable         a service behind this one does not answer
    │   └── Failed              loading failed or the engine died: only a restart helps
    │       └── DoesNotFit      the plan needs more memory than there is
    ├── GenerationFailed        the engine broke on this request
    │   └── OutOfMemory         the accelerator's memory ran out on it
    ├── ModelRefused            a model that can't run here, refused by name at load
    │   └── BackendRefused      one that this backend can't run; another may
    ├── IndexRefused            an index that is corrupt, foreign or made by another embedder
    └── ArtifactRefused         an artifact with a file that is missing or not as it was made

Every error names the field, the value, the limit and the remedy where it has them; a refusal by the plan also carries
`figures`: what was asked for, needed and free, in tokens and bytes, and fixes that make the same check pass. `body()`
is what a client gets; it stays below 2,048 characters because SageMaker cuts a failed container's answer there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

_LONGEST_VALUE = 120
_LARGEST_BODY_BYTES = 1900


class RagError(Exception):
    """The root. `retryable` says whether the very same request may succeed later."""

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
        """The JSON object that a client reads: only the members that say something."""
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
    """The request itself is wrong; sending it again unchanged can't help."""

    code = "invalid_request"


class PayloadTooLarge(InvalidRequest):
    """The body has more bytes than the cap."""

    code = "payload_too_large"


class UnsupportedMedia(InvalidRequest):
    """A Content-Type that this server does not speak."""

    code = "unsupported_media"


class NotAcceptable(InvalidRequest):
    """An Accept that names nothing this server can send."""

    code = "not_acceptable"


class PromptTooLong(InvalidRequest):
    """The prompt or the output asked for can't fit the context of this deployment."""

    code = "prompt_too_long"


class SessionClosed(InvalidRequest):
    """A session that was never opened here, has been closed, or has expired."""

    code = "session_closed"


class ClientGone(RagError):  # noqa: N818
    """The client hung up while its request waited. Nobody reads this."""

    code = "client_gone"


class Overloaded(RagError):  # noqa: N818
    """Every place in the queue is taken."""

    code = "overloaded"
    retryable = True


class NotReady(RagError):  # noqa: N818
    """Still loading."""

    code = "not_ready"
    retryable = True


class Draining(NotReady):
    """The container has been told to stop. Another one, or this one's successor, will answer."""

    code = "draining"


class Unreachable(NotReady):
    """A service behind this one does not answer. `sent` says whether it may have read the request all the same."""

    code = "unreachable"

    def __init__(self, message: str, *, service: str, sent: bool, retry_after_s: float = 1.0) -> None:
        super().__init__(
            message,
            field="phase",
            value=f"{service}: unreachable",
            remedy=f"ask again: the {service} service is being restarted, or see its log",
            retry_after_s=retry_after_s,
        )
        self.sent = sent


class Failed(NotReady):
    """Loading failed, or the engine died. The same container will not recover."""

    code = "failed"
    retryable = False


class DoesNotFit(Failed):
    """The plan needs more memory than there is. `refusal` is the capacity model's: need, have, and fixes that work."""

    code = "does_not_fit"

    def __init__(self, refusal: Mapping[str, Any]) -> None:
        super().__init__(str(refusal["message"]))
        self.refusal = refusal

    def body(self) -> dict[str, object]:
        """The refusal, with as many of its fixes, best first, as a client can be shown."""
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
    """The engine broke on this request, and only on this one."""

    code = "generation_failed"


class OutOfMemory(GenerationFailed):
    """The accelerator's memory ran out on this request; the container takes on less from now on."""

    code = "out_of_memory"
    retryable = True


class ModelRefused(RagError):  # noqa: N818
    """A model that can't run here, by name and with the reason."""

    code = "model_refused"


class BackendRefused(ModelRefused):
    """A model that the chosen backend can't run, though another one may."""


class IndexRefused(RagError):  # noqa: N818
    """An index that is corrupt, foreign, or made by another embedder."""

    code = "index_refused"


class ArtifactRefused(RagError):  # noqa: N818
    """An artifact with a file that is missing, damaged, or not in its manifest."""

    code = "artifact_refused"


_STATUS: dict[type[RagError], int] = {
    InvalidRequest: 400,
    PayloadTooLarge: 413,
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
    """The HTTP status of `error`: its own class's, else its nearest ancestor's."""
    return next(_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)


def rebuilt(document: Mapping[str, Any]) -> RagError:
    """The error whose `body()` another process sent as `document`, so that it can be raised again unchanged.

    Raises ValueError where `document` is no such body.
    """
    parts = document.get("error")
    if not isinstance(parts, dict) or not isinstance(parts.get("message"), str):
        raise ValueError(f"not the body of an error: {str(document)[:200]}")  # noqa: TRY004 - a value, of the right type
    kind = _BY_CODE.get(str(parts.get("code")), RagError)
    if issubclass(kind, DoesNotFit):
        return DoesNotFit(parts)
    if issubclass(kind, Unreachable):
        kind = NotReady  # whether it was sent is known to that process only
    named = {name: parts.get(name) for name in ("field", "value", "limit", "remedy", "retry_after_s")}
    figures = {name: part for name, part in parts.items() if name not in (*named, "code", "message", "retryable")}
    return kind(parts["message"], **named, figures=figures)


def _tree(kind: type[RagError]) -> Iterator[type[RagError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _tree(below)


_BY_CODE = {kind.code: kind for kind in _tree(RagError)}


def _shortened(value: object) -> object:
    if isinstance(value, bool | int | float):
        return value
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"
