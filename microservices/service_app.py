"""What the faces of the vector and the LLM service have in common: /health, errors as JSON, and the time taken."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from rag.errors import InvalidRequest, RagError, status_of
from rag.serving.lifecycle import Boot, Loaded
from rag.serving.responses import dump

_log = logging.getLogger(__name__)

JSON = "application/json"


def face(name: str, boot: Boot[Loaded], facts: Callable[[Loaded], bytes]) -> Flask:
    """An application with /health: `facts` as JSON once ready, else 503 with the phase or the reason."""
    app = Flask(name)

    @app.get("/health")
    def health() -> Response:
        unready = boot.unready()
        return refusal(unready) if unready is not None else Response(facts(boot.loaded()), mimetype=JSON)

    @app.after_request
    def timing(response: Response) -> Response:
        if "model_s" in g:
            response.headers["Server-Timing"] = f"model;dur={1e3 * g.model_s:.3f}"
        return response

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            refused = InvalidRequest(error.description or error.name, field="request", value=request.path)
            return refusal(refused, status=error.code)
        if not isinstance(error, RagError):
            _log.exception("a request failed")
            error = RagError("internal error", remedy=f"see the {name} service's log")
        return refusal(error)

    return app


@contextmanager
def model_time() -> Iterator[None]:
    """What runs inside is the model's work: the caller learns how long it took, and what the hop added to it."""
    began = time.perf_counter()
    yield
    g.model_s = time.perf_counter() - began


def refusal(error: RagError, status: int | None = None) -> Response:
    """The error as the orchestrator reads it."""
    return Response(dump(error.body()), status=status or status_of(error), mimetype=JSON)


def plain(document: Any) -> Response:
    """A JSON answer."""
    return Response(dump(document), mimetype=JSON)
