"""Shared by the vector and the LLM service: /health, errors as JSON, and the model's share of the response time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from rag.errors import InvalidRequest, RagError, status_of
from rag.serving.lifecycle import Boot, Loaded
from rag.serving.responses import dump

_log = logging.getLogger(__name__)

JSON = "application/json"


def make_app(name: str, boot: Boot[Loaded], describe: Callable[[Loaded], bytes]) -> Flask:
    """An application with /health: the JSON of `describe` once ready, else 503 with the phase or the reason."""
    app = Flask(name)

    @app.get("/health")
    def health() -> Response:
        unready = boot.unready()
        return error_response(unready) if unready is not None else Response(describe(boot.loaded()), mimetype=JSON)

    @app.after_request
    def add_server_timing(response: Response) -> Response:
        if "model_s" in g:
            response.headers["Server-Timing"] = f"model;dur={1e3 * g.model_s:.3f}"
        return response

    @app.errorhandler(Exception)
    def handle_error(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            refused = InvalidRequest(error.description or error.name, field="request", value=request.path)
            return error_response(refused, status=error.code)
        if not isinstance(error, RagError):
            _log.exception("a request failed")
            error = RagError("internal error", remedy=f"see the {name} service's log")
        return error_response(error)

    return app


@contextmanager
def model_time() -> Iterator[None]:
    """Measures the model's work inside: the caller gets its duration, the rest is the cost of the request itself."""
    began = time.perf_counter()
    yield
    g.model_s = time.perf_counter() - began


def error_response(error: RagError, status: int | None = None) -> Response:
    """The error as the orchestrator reads it."""
    return Response(dump(error.body()), status=status or status_of(error), mimetype=JSON)


def json_response(document: object) -> Response:
    """A JSON answer."""
    return Response(dump(document), mimetype=JSON)
