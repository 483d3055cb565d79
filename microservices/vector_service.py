"""The vector service: POST /embed, POST /retrieve, GET /health. A face over rag's embedder and retriever."""

from __future__ import annotations

from flask import Flask, Response, request

from microservices.service_app import JSON, face, model_time
from rag.remote import payloads
from rag.remote.payloads import VectorFacts
from rag.remote.servables import Retrieval
from rag.serving.lifecycle import Boot


def create_app(boot: Boot[Retrieval]) -> Flask:
    """The application around a Boot that somebody else starts."""

    def facts(retrieval: Retrieval) -> bytes:
        embedder = retrieval.embedder
        return payloads.write(payloads.VECTOR_FACTS, VectorFacts(embedder.name, embedder.dimension))

    app = face("vector", boot, facts)

    @app.post("/embed")
    def embed() -> Response:
        call = payloads.read(payloads.EMBED_CALL, request.get_data())
        with model_time():
            vectors = boot.loaded().embedder.embed_queries(call.texts)
        return Response(payloads.write_vectors(vectors), mimetype="application/octet-stream")

    @app.post("/retrieve")
    def retrieve() -> Response:
        call = payloads.read(payloads.RETRIEVE_CALL, request.get_data())
        with model_time():
            passages = boot.loaded().retriever.retrieve(
                call.question, top_k=call.top_k, filters=call.filters, min_score=call.min_score
            )
        return Response(payloads.write_passages(passages), mimetype=JSON)

    return app
