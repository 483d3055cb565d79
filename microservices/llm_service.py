"""The LLM service: POST /generate (JSON Lines), PUT and DELETE /sessions/ID, POST /encode, and what it is and holds.

A face over rag's generator and its ledger: what is admitted, queued or refused is decided there, and a refusal passes
through the orchestrator unchanged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from flask import Flask, Response, request

from microservices.service_app import JSON, face, plain
from rag.cancellation import Call
from rag.errors import GenerationFailed, InvalidRequest, NotReady, RagError
from rag.interfaces import DeltaStream
from rag.remote import payloads
from rag.remote.payloads import LlmFacts
from rag.remote.servables import Llm
from rag.serving.disconnects import Hangups
from rag.serving.lifecycle import Boot

_log = logging.getLogger(__name__)

_SOCKETS = ("gunicorn.socket", "werkzeug.socket")


def create_app(boot: Boot[Llm]) -> Flask:
    """The application around a Boot that somebody else starts."""

    def facts(llm: Llm) -> bytes:
        generator = llm.generator
        return payloads.write(payloads.LLM_FACTS, LlmFacts(generator.name, generator.max_model_len, llm.fingerprint))

    app = face("llm", boot, facts)
    hangups = Hangups()

    @app.post("/generate")
    def generate() -> Response:
        llm = boot.loaded()
        asked = payloads.read(payloads.GENERATE_CALL, request.get_data())
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
            hangups.watch(client, call)  # an orchestrator that leaves closes its connection: that is the cancel

        def leave() -> None:
            if client is not None:
                hangups.forget(client)

        try:
            deltas = llm.generator.generate(asked.prompt_ids, asked.sampling, asked.session, call)
        except BaseException:
            leave()
            raise
        response = Response(_lines(deltas), mimetype="application/jsonlines")
        response.call_on_close(deltas.close)
        response.call_on_close(leave)
        return response

    @app.put("/sessions/<session>")
    def open_session(session: str) -> Response:
        boot.loaded().generator.open_session(session)
        return plain({"session": session})

    @app.delete("/sessions/<session>")
    def close_session(session: str) -> Response:
        boot.loaded().generator.close_session(session)
        return plain({"session": session, "closed": True})

    @app.post("/encode")
    def encode() -> Response:
        asked = payloads.read(payloads.ENCODE_CALL, request.get_data())
        return plain(boot.loaded().generator.encode(asked.messages))

    @app.get("/tokenizer")
    def tokenizer() -> Response:
        published = boot.loaded().tokenizer
        if published is None:
            raise InvalidRequest("this model's tokenizer is not published", field="request", remedy="use /encode")
        return Response(payloads.write(payloads.TOKENIZER, published), mimetype=JSON)

    @app.get("/plan")
    def plan() -> Response:
        return plain(boot.loaded().plan.to_json())

    @app.get("/usage")
    def usage() -> Response:
        return Response(payloads.write(payloads.USAGE, boot.usage()), mimetype=JSON)

    @app.get("/kv_use")
    def kv_use() -> Response:
        return Response(payloads.write(payloads.KV_USE, boot.kv_use()), mimetype=JSON)

    @app.get("/refusals/busy")
    def busy() -> Response:
        return plain(boot.loaded().generator.busy().body())

    @app.post("/refusals/too_long")
    def too_long() -> Response:
        asked = payloads.read(payloads.TOO_LONG_CALL, request.get_data())
        refusal = boot.loaded().generator.admission.too_long(
            asked.prompt_tokens, asked.new_tokens, allow_long=asked.allow_long
        )
        return plain(refusal.body())

    return app


def _lines(deltas: DeltaStream) -> Iterator[bytes]:
    """Deltas as they come. An error becomes the last line: the status has long been sent."""
    yield b"{}\n"  # sends the headers: whoever waits for them learns that the generation was admitted
    model_s, began = 0.0, time.perf_counter()
    try:
        for delta in deltas:
            model_s += time.perf_counter() - began
            yield payloads.write_delta(delta)
            began = time.perf_counter()  # what it takes to send a line is the hop's
        yield payloads.write_model_time(model_s)
    except RagError as error:
        yield payloads.write_failure(error)
    except Exception:
        _log.exception("a generation failed")
        yield payloads.write_failure(GenerationFailed("the answer could not be completed"))
