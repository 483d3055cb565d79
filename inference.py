"""The WSGI application: GET /ping, POST /invocations, GET /execution-parameters. HTTP only.

What a request means is rag/schema.py's, what happens to it rag/pipeline.py's, how an answer looks rag/wire.py's.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from flask import Flask, Response, request
from werkzeug.datastructures import MIMEAccept
from werkzeug.exceptions import HTTPException
from werkzeug.http import parse_accept_header

from rag.boot import Boot
from rag.errors import InvalidRequest, NotAcceptable, Overloaded, PayloadTooLarge, RagError, UnsupportedMedia, status_of
from rag.pipeline import Pipeline
from rag.schema import Ask, parse_json, parse_text
from rag.settings import Settings
from rag.wire import (
    CONTENT_TYPES,
    Document,
    Framing,
    answer_document,
    dump,
    embedding_document,
    passage_document,
    stream,
)

_log = logging.getLogger(__name__)

_JSON = "application/json"
_TEXT = "text/plain"
_JSON_LINES = ("application/jsonlines", "application/x-jsonlines", "application/x-ndjson")
_ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
_STREAM_ACCEPT = "X-Amzn-SageMaker-Accept"  # in its place for InvokeEndpointWithResponseStream

_MOST_LINES = 256
_MOST_DRAINED_BYTES = 64_000_000


def create_app(settings: Settings, boot: Boot) -> Flask:
    """The application around a Boot that somebody else starts, so that importing never loads a model."""
    app = Flask("rag")
    # Threads outnumber the places (Settings.http_threads), so /ping and refusals always find one.
    places = threading.BoundedSemaphore(settings.places)

    @app.get("/ping")
    def ping() -> Response:
        unready = boot.unready()
        return Response(status=200) if unready is None else _refusal(unready)

    @app.get("/execution-parameters")
    def execution_parameters() -> Response:
        document = {
            "MaxConcurrentTransforms": settings.sessions,
            "BatchStrategy": "SINGLE_RECORD",
            "MaxPayloadInMB": max(1, int(settings.max_body_mb)),
        }
        return _json(document)

    @app.post("/invocations")
    def invocations() -> Response:
        body = _body(settings.max_body_mb)
        pipeline = boot.pipeline()
        if not places.acquire(blocking=False):
            raise Overloaded(
                "every place is taken",
                field="queue",
                value=settings.places,
                limit=settings.places,
                remedy="try again after the time given, or deploy with more CONCURRENCY or QUEUE",
                retry_after_s=1.0,
            )
        try:
            response = _respond(pipeline, body, settings)
        except BaseException:
            places.release()
            raise
        response.call_on_close(places.release)  # after the last byte of a stream, or when its client has gone
        return response

    @app.after_request
    def echo(response: Response) -> Response:
        attributes = request.headers.get(_ATTRIBUTES)
        if attributes is not None:
            response.headers[_ATTRIBUTES] = attributes[:1024]
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, HTTPException):  # no such path, wrong method, a client that went away
            refused = InvalidRequest(error.description or error.name, field="request", value=request.path)
            return _refusal(refused, status=error.code)
        if not isinstance(error, RagError):
            _log.exception("a request failed")
            error = RagError("internal error", remedy="see the container's log")
        return _refusal(error)

    return app


def _respond(pipeline: Pipeline, body: bytes, settings: Settings) -> Response:
    accepted = _accepted()
    content_type = request.mimetype or _JSON
    if content_type in _JSON_LINES:
        return Response(_batch(pipeline, body, settings), mimetype=_JSON_LINES[0])
    if content_type not in (_JSON, _TEXT):
        raise UnsupportedMedia(
            f"Content-Type {content_type!r} is not spoken here",
            field="Content-Type",
            value=content_type,
            limit=", ".join((_JSON, _TEXT, _JSON_LINES[0])),
            remedy=f"send {_JSON} (curl: -H 'Content-Type: {_JSON}')",
        )
    read = parse_text if content_type == _TEXT else parse_json
    ask = read(body, default_new_tokens=settings.max_new_tokens)
    framing = _framing(ask, accepted)
    if framing is not None:
        run = pipeline.start(replace(ask, stream=True))
        response = Response(stream(run, ask.shape, framing), mimetype=CONTENT_TYPES[framing])
        response.call_on_close(run.close)  # a client may leave before the first byte, when no generator has begun
        return response
    document = _answered(pipeline, ask)
    if accepted == _TEXT and "text" in document:
        return Response(str(document["text"]), mimetype=_TEXT)
    return _json(document)


def _answered(pipeline: Pipeline, ask: Ask) -> Document:
    if ask.mode == "embed":
        return embedding_document(pipeline.embed(ask))
    if ask.mode == "retrieve":
        return {"sources": [passage_document(passage) for passage in pipeline.retrieve(ask)]}
    return answer_document(pipeline.answer(ask), ask.shape)


def _batch(pipeline: Pipeline, body: bytes, settings: Settings) -> bytes:
    """One JSON body a line in, one answer or error a line out, in the same order; a bad line fails alone."""
    lines = [line for line in body.splitlines() if line.strip()]
    if not 1 <= len(lines) <= _MOST_LINES:
        raise InvalidRequest(
            f"a batch of {len(lines)} lines",
            field="body",
            value=f"{len(lines)} lines",
            limit=f"1 to {_MOST_LINES} lines",
            remedy="send the lines in several requests",
        )

    def one(line: bytes) -> Document:
        try:
            ask = parse_json(line, default_new_tokens=settings.max_new_tokens)
            return _answered(pipeline, replace(ask, stream=False))
        except RagError as error:
            return error.body()

    with ThreadPoolExecutor(min(len(lines), settings.sessions), thread_name_prefix="batch") as threads:
        return b"".join(dump(document) + b"\n" for document in threads.map(one, lines))


def _body(max_body_mb: float) -> bytes:
    """The whole body. One that exceeds the cap is read on and thrown away, so that the refusal reaches its sender."""
    cap = int(max_body_mb * 1e6)
    body = request.stream.read(cap + 1)
    if len(body) <= cap:
        return body
    size = len(body)
    while size < _MOST_DRAINED_BYTES and (more := request.stream.read(1 << 20)):
        size += len(more)
    raise PayloadTooLarge(
        f"the body exceeds {max_body_mb:g} MB",
        field="body",
        value=f"{request.content_length or size} bytes",
        limit=f"{cap} bytes",
        remedy="send less text, or deploy with a larger MAX_BODY_MB",
    )


def _accepted() -> str | None:
    """The answer's content type that the client names, or None where any will do."""
    header = request.headers.get(_STREAM_ACCEPT) or request.headers.get("Accept")
    if not header or header.strip() == "*/*":
        return None
    accepted = parse_accept_header(header, MIMEAccept).best_match([_JSON, CONTENT_TYPES["sse"], *_JSON_LINES, _TEXT])
    if accepted is None:
        raise NotAcceptable(
            f"Accept {header!r} names nothing that is sent here",
            field="Accept",
            value=header,
            limit=", ".join((_JSON, CONTENT_TYPES["sse"], _JSON_LINES[0], _TEXT)),
            remedy=f"send {_JSON}",
        )
    return accepted


def _framing(ask: Ask, accepted: str | None) -> Framing | None:
    """How to frame a stream; None for an answer in one piece."""
    if ask.mode not in ("answer", "generate"):
        return None
    if accepted in _JSON_LINES:
        return "jsonlines"
    return "sse" if ask.stream or accepted == CONTENT_TYPES["sse"] else None


def _json(document: Document) -> Response:
    return Response(dump(document), mimetype=_JSON)


def _refusal(error: RagError, status: int | None = None) -> Response:
    response = _json(error.body())
    response.status_code = status or status_of(error)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return response
