"""The LLM service: POST /generate (JSON Lines), PUT and DELETE /sessions/ID, POST /encode, and its state and metrics.

HTTP over rag's generator and its admission: requests are admitted, queued or refused there, and the orchestrator passes
a refusal on unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from microservices.service_app import JSON, json_response, make_app
from rag.cancellation import Call
from rag.errors import GenerationFailed, InvalidRequest, NotReady, RagError
from rag.interfaces import DeltaStream
from rag.remote import payloads
from rag.remote.payloads import LlmDescription
from rag.remote.servables import Llm
from rag.serving.disconnects import DisconnectWatcher
from rag.serving.lifecycle import Boot

_log = logging.getLogger(__name__)

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def create_app(boot: Boot[Llm]) -> Flask:
    """The application around a Boot, which the caller starts."""
    app = make_app("llm", boot, _describe)
    service = _LlmService(boot)
    app.post("/generate")(service.generate)
    app.put("/sessions/<session>")(service.open_session)
    app.delete("/sessions/<session>")(service.close_session)
    app.post("/encode")(service.encode)
    app.get("/tokenizer")(service.tokenizer)
    app.get("/plan")(service.plan)
    app.get("/usage")(service.usage)
    app.get("/kv_use")(service.kv_use)
    app.get("/refusals/busy")(service.busy)
    app.post("/refusals/too_long")(service.too_long)
    return app


class _LlmService:
    """The request handlers."""

    def __init__(self, boot: Boot[Llm]) -> None:
        self._boot = boot
        self._disconnects = DisconnectWatcher()

    def generate(self) -> Response:
        llm = self._boot.loaded()
        asked = payloads.read(payloads.GENERATE_REQUEST, request.get_data())
        if asked.tokenizer != llm.fingerprint:
            raise NotReady(
                "the prompt was encoded for another model than the one that runs now",
                field="tokenizer",
                value=asked.tokenizer,
                limit=llm.fingerprint,
                remedy="ask again",
                retry_after_s=1.0,
            )
        call = Call()
        client = next((request.environ[name] for name in _SOCKETS if name in request.environ), None)
        if client is not None:
            self._disconnects.watch(client, call)  # the orchestrator cancels by closing its connection

        def unwatch() -> None:
            if client is not None:
                self._disconnects.unwatch(client)

        try:
            deltas = llm.generator.generate(asked.prompt_ids, asked.sampling, asked.session, call)
        except BaseException:
            unwatch()
            raise
        response = Response(_lines(deltas), mimetype="application/jsonlines")
        response.call_on_close(deltas.close)
        response.call_on_close(unwatch)
        return response

    def open_session(self, session: str) -> Response:
        self._boot.loaded().generator.open_session(session)
        return json_response({"session": session})

    def close_session(self, session: str) -> Response:
        self._boot.loaded().generator.close_session(session)
        return json_response({"session": session, "closed": True})

    def encode(self) -> Response:
        asked = payloads.read(payloads.ENCODE_REQUEST, request.get_data())
        return json_response(self._boot.loaded().generator.encode(asked.messages))

    def tokenizer(self) -> Response:
        published = self._boot.loaded().tokenizer
        if published is None:
            raise InvalidRequest("this model's tokenizer is not published", field="request", remedy="use /encode")
        return Response(payloads.write(payloads.TOKENIZER, published), mimetype=JSON)

    def plan(self) -> Response:
        return json_response(self._boot.loaded().plan.to_json())

    def usage(self) -> Response:
        return Response(payloads.write(payloads.USAGE, self._boot.usage()), mimetype=JSON)

    def kv_use(self) -> Response:
        return Response(payloads.write(payloads.KV_USE, self._boot.kv_use()), mimetype=JSON)

    def busy(self) -> Response:
        return json_response(self._boot.loaded().generator.admission.busy().body())

    def too_long(self) -> Response:
        asked = payloads.read(payloads.TOO_LONG_REQUEST, request.get_data())
        refusal = self._boot.loaded().generator.admission.too_long(
            asked.prompt_tokens, asked.new_tokens, allow_long=asked.allow_long
        )
        return json_response(refusal.body())


def _describe(llm: Llm) -> bytes:
    generator = llm.generator
    description = LlmDescription(generator.name, generator.max_model_len, llm.fingerprint)
    return payloads.write(payloads.LLM_DESCRIPTION, description)


def _lines(deltas: DeltaStream) -> Iterator[bytes]:
    """Deltas as they arrive. An error becomes the last line, since the HTTP status has been sent already."""
    yield b"{}\n"  # sends the headers, by which the orchestrator sees that the generation was admitted
    model_s, began = 0.0, time.perf_counter()
    try:
        for delta in deltas:
            model_s += time.perf_counter() - began
            yield payloads.write_delta(delta)
            began = time.perf_counter()  # the time to send a line is not the model's
        yield payloads.write_model_time(model_s)
    except RagError as error:
        yield payloads.write_failure(error)
    except Exception:
        _log.exception("a generation failed")
        yield payloads.write_failure(GenerationFailed("the answer could not be completed"))
