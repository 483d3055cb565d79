"""The WSGI application: GET /ping, POST /invocations, GET /execution-parameters. HTTP only.

rag/serving/requests.py parses requests, rag/answering/pipeline.py answers, rag/serving/responses.py formats answers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from flask import Flask, Response, g, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from rag.answering.ask import Ask
from rag.answering.pipeline import Pipeline
from rag.answering.run import Answer, Run
from rag.answering.sessions import Conversation
from rag.cancellation import Call
from rag.errors import (
    InvalidRequest,
    NotAcceptable,
    PayloadTooLarge,
    RagError,
    SessionClosed,
    UnsupportedMedia,
    status_of,
)
from rag.serving.disconnects import DisconnectWatcher
from rag.serving.lifecycle import Boot
from rag.serving.requests import closes_session, parse_json, parse_text
from rag.serving.responses import (
    CONTENT_TYPES,
    Document,
    Framing,
    answer_document,
    dump,
    embedding_document,
    passage_document,
    stream,
)
from rag.serving.telemetry import Telemetry
from rag.settings import Settings

_log = logging.getLogger(__name__)

_JSON = "application/json"
_TEXT = "text/plain"
_JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/x-ndjson")
_ACCEPTED = (_JSON, CONTENT_TYPES["sse"], *_JSON_LINES, _TEXT)
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_SESSION = "X-Amzn-SageMaker-Session-Id"
_NEW_SESSION = "X-Amzn-SageMaker-New-Session-Id"
_CLOSED_SESSION = "X-Amzn-SageMaker-Closed-Session-Id"
_INFERENCE = "X-Amzn-SageMaker-Inference-Id"
_STREAM_ACCEPT = "X-Amzn-SageMaker-Accept"  # what InvokeEndpointWithResponseStream sends as Accept

_MOST_LINES = 256


@dataclass(slots=True)
class _Record:
    """What the request log needs, collected while the request is handled."""

    call: Call
    code: str | None = None
    ask: Ask | None = None
    run: Run | None = None
    answer: Answer | None = None


def create_app(settings: Settings, boot: Boot[Pipeline], telemetry: Telemetry | None = None) -> Flask:
    """The application around a Boot, which the caller starts: importing this module never loads a model."""
    app = Flask("rag")
    telemetry = telemetry or Telemetry(boot.usage, boot.kv_use, log_prompts=settings.log_prompts)
    handlers = _Handlers(settings, boot, telemetry)
    app.get("/ping")(handlers.ping)
    app.get("/execution-parameters")(handlers.execution_parameters)
    app.post("/invocations")(handlers.invocations)
    app.after_request(handlers.finish)
    app.register_error_handler(Exception, handlers.handle_error)
    return app


class _Handlers:
    """The request handlers."""

    def __init__(self, settings: Settings, boot: Boot[Pipeline], telemetry: Telemetry) -> None:
        self._settings = settings
        self._boot = boot
        self._telemetry = telemetry
        self._disconnects = DisconnectWatcher()
        # There are more threads than places (Settings.http_threads), so that one is always free for /ping and refusals.
        self._places = threading.BoundedSemaphore(settings.places)

    def ping(self) -> Response:
        unready = self._boot.unready()
        return Response(status=200) if unready is None else _error_response(unready)

    def execution_parameters(self) -> Response:
        document = {
            "MaxConcurrentTransforms": self._settings.sessions,
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": max(1, int(self._settings.max_body_mb)),
        }
        return _json(document)

    def invocations(self) -> Response:
        g.record = record = _Record(Call())
        body = _body(self._settings.max_body_mb)
        pipeline = self._boot.loaded()
        if not self._places.acquire(blocking=False):
            raise pipeline.admission.busy()
        client = request.environ.get("gunicorn.socket")
        if client is not None:
            self._disconnects.watch(client, record.call, may_probe=request.environ["SERVER_PROTOCOL"] != "HTTP/1.0")

        def release() -> None:
            if client is not None:
                self._disconnects.unwatch(client)
            self._places.release()

        try:
            response = _respond(pipeline, body, self._settings, record)
        except BaseException:
            release()
            raise
        finally:
            if client is not None:
                self._disconnects.response_begins(client)
        response.call_on_close(release)  # after the last byte of a stream, or when its client has disconnected
        return response

    def finish(self, response: Response) -> Response:
        attributes = request.headers.get(_ATTRIBUTES)
        if attributes is not None:
            response.headers[_ATTRIBUTES] = attributes[:1024]
        record: _Record | None = g.get("record")
        if record is not None:
            inference, session = request.headers.get(_INFERENCE), request.headers.get(_SESSION)

            def log() -> None:
                self._telemetry.request(
                    status=response.status_code,
                    code=record.code,
                    total_s=time.monotonic() - record.call.began,
                    answer=record.run.answer if record.run else record.answer,
                    mode=record.ask and record.ask.mode,
                    shape=record.ask and record.ask.shape,
                    stream=record.run is not None or None,
                    question=record.ask and record.ask.question,
                    inference_id=inference and inference[:64],
                    session=session and session[:64],
                )

            response.call_on_close(log)
        return response

    def handle_error(self, error: Exception) -> Response:
        if isinstance(error, HTTPException):  # unknown path, wrong method, a client that has disconnected
            refused = InvalidRequest(error.description or error.name, field="request", value=request.path)
            return _error_response(refused, status=error.code)
        if not isinstance(error, RagError):
            _log.exception("a request failed")
            error = RagError("internal error", remedy="see the container's log")
        if "record" in g:
            g.record.code = error.code
        response = _error_response(error)
        if isinstance(error, SessionClosed):  # tells SageMaker that the session has ended
            response.headers[_CLOSED_SESSION] = request.headers.get(_SESSION, "")
        return response


def _respond(pipeline: Pipeline, body: bytes, settings: Settings, record: _Record) -> Response:
    accepted = _accepted()
    content_type = request.mimetype or _JSON
    session_id = request.headers.get(_SESSION)
    if content_type in _JSON_LINES:
        if session_id is not None:
            raise InvalidRequest(
                "a batch can't be part of a session",
                field=_SESSION,
                value=session_id,
                remedy="send the lines one by one, or without the session id",
            )
        return Response(_batch(pipeline, body, settings), mimetype=_JSON_LINES[0])
    if content_type not in (_JSON, _TEXT):
        raise UnsupportedMedia(
            f"the Content-Type {content_type!r} is not supported",
            field="Content-Type",
            value=content_type,
            limit=", ".join((_JSON, _TEXT, _JSON_LINES[0])),
            remedy=f"send {_JSON} (curl: -H 'Content-Type: {_JSON}')",
        )
    if session_id is not None and closes_session(body):
        pipeline.sessions.close(session_id)
        response = _json({"session": session_id, "closed": True})
        response.headers[_CLOSED_SESSION] = session_id
        return response
    read = parse_text if content_type == _TEXT else parse_json
    record.ask = ask = read(body, default_new_tokens=settings.max_new_tokens)
    if session_id is None or ask.mode not in ("answer", "generate"):
        return _reply(pipeline, ask, accepted, record, None)
    if session_id != "NEW_SESSION":
        return _reply(pipeline, ask, accepted, record, pipeline.sessions.begin(session_id))
    session = pipeline.sessions.open()
    try:
        response = _reply(pipeline, ask, accepted, record, pipeline.sessions.begin(session.id))
    except BaseException:
        pipeline.sessions.close(session.id)  # the client never gets its id
        raise

    def close_if_cancelled() -> None:
        """A client that disconnected during the first turn does not use the session: it must not hold its memory."""
        answer = record.run.answer if record.run is not None else record.answer
        if record.call.cancelled or answer is None or answer.finish_reason == "cancelled":
            with contextlib.suppress(SessionClosed):
                pipeline.sessions.close(session.id)

    response.call_on_close(close_if_cancelled)
    expires = datetime.fromtimestamp(session.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    response.headers[_NEW_SESSION] = f"{session.id}; Expires={expires}"
    return response


def _reply(
    pipeline: Pipeline, ask: Ask, accepted: str | None, record: _Record, session: Conversation | None
) -> Response:
    framing = _framing(ask, accepted)
    if framing is not None:
        run = record.run = pipeline.start(replace(ask, stream=True), record.call, session)
        response = Response(stream(run, ask.shape, framing), mimetype=CONTENT_TYPES[framing])
        response.call_on_close(
            run.close
        )  # a client may disconnect before the first byte, when the iterator has not started
        return response
    if ask.mode in ("answer", "generate"):
        record.answer = pipeline.answer(ask, record.call, session)
        document = answer_document(record.answer, ask.shape)
    else:
        document = _without_llm(pipeline, ask)
    if accepted == _TEXT and "text" in document:
        return Response(str(document["text"]), mimetype=_TEXT)
    return _json(document)


def _without_llm(pipeline: Pipeline, ask: Ask) -> Document:
    """The answer in the modes embed and retrieve."""
    if ask.mode == "embed":
        return embedding_document(pipeline.embed(ask))
    return {"sources": [passage_document(passage) for passage in pipeline.retrieve(ask)]}


def _batch(pipeline: Pipeline, body: bytes, settings: Settings) -> bytes:
    """One JSON body a line in, one answer or error a line out, in the same order; a bad line fails only itself."""
    lines = [line for line in body.splitlines() if line.strip()]
    if not 1 <= len(lines) <= _MOST_LINES:
        raise InvalidRequest(
            f"a batch of {len(lines)} lines",
            field="body",
            value=f"{len(lines)} lines",
            limit=f"1 to {_MOST_LINES} lines",
            remedy="send the lines in several requests",
        )

    def answer(line: bytes) -> Document:
        try:
            ask = parse_json(line, default_new_tokens=settings.max_new_tokens)
            if ask.mode in ("answer", "generate"):
                return answer_document(pipeline.answer(replace(ask, stream=False)), ask.shape)
            return _without_llm(pipeline, ask)
        except RagError as error:
            return error.body()

    with ThreadPoolExecutor(min(len(lines), settings.sessions), thread_name_prefix="batch") as threads:
        return b"".join(dump(document) + b"\n" for document in threads.map(answer, lines))


def body_too_large(max_body_mb: float, size: int | None = None) -> PayloadTooLarge:
    """The refusal of a request body above the limit."""
    return PayloadTooLarge(
        f"the body exceeds {max_body_mb:g} MB",
        field="body",
        value=None if size is None else f"{size} bytes",
        limit=f"{int(max_body_mb * 1e6)} bytes",
        remedy="send less text, or deploy with a larger MAX_BODY_MB",
    )


def _body(max_body_mb: float) -> bytes:
    """The whole body. buffered_worker.py refuses larger ones before they get here; other servers may not."""
    limit = int(max_body_mb * 1e6)
    body = request.stream.read(limit + 1)
    if len(body) > limit:
        raise body_too_large(max_body_mb, request.content_length)
    return body


def _accepted() -> str | None:
    """The content type that the client asks for; None for any."""
    header = request.headers.get(_STREAM_ACCEPT) or request.headers.get("Accept")
    if not header or header.strip() == "*/*":
        return None
    if header in _ACCEPTED:  # nearly always, and parsing takes 0.1 ms
        return header
    accepted = parse_accept_header(header, MIMEAccept).best_match(_ACCEPTED)
    if accepted is None:
        raise NotAcceptable(
            f"Accept {header!r} includes no supported type",
            field="Accept",
            value=header,
            limit=", ".join((_JSON, CONTENT_TYPES["sse"], _JSON_LINES[0], _TEXT)),
            remedy=f"send {_JSON}",
        )
    return accepted


def _framing(ask: Ask, accepted: str | None) -> Framing | None:
    """The framing of a streamed answer; None for a plain one."""
    if ask.mode not in ("answer", "generate"):
        return None
    if accepted in _JSON_LINES:
        return "jsonlines"
    return "sse" if ask.stream or accepted == CONTENT_TYPES["sse"] else None


def _json(document: Document) -> Response:
    return Response(dump(document), mimetype=_JSON)


def _error_response(error: RagError, status: int | None = None) -> Response:
    response = _json(error.body())
    response.status_code = status or status_of(error)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return response
