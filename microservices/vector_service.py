"""The vector service: POST /embed, POST /retrieve, GET /health, over rag's embedder and retriever."""

from __future__ import annotations

from flask import Flask, Response, request

from microservices.service_app import JSON, make_app, model_time
from rag.remote import payloads
from rag.remote.payloads import VectorDescription
from rag.remote.servables import Retrieval
from rag.serving.lifecycle import Boot


def create_app(boot: Boot[Retrieval]) -> Flask:
    """The application around a Boot, which the caller starts."""

    def describe(retrieval: Retrieval) -> bytes:
        embedder = retrieval.embedder
        return payloads.write(payloads.VECTOR_DESCRIPTION, VectorDescription(embedder.name, embedder.dimension))

    app = make_app("vector", boot, describe)

    @app.post("/embed")
    def embed() -> Response:
        asked = payloads.read(payloads.EMBED_REQUEST, request.get_data())
        with model_time():
            vectors = boot.loaded().embedder.embed_queries(asked.texts)
        return Response(payloads.write_vectors(vectors), mimetype="application/octet-stream")

    @app.post("/retrieve")
    def retrieve() -> Response:
        asked = payloads.read(payloads.RETRIEVE_REQUEST, request.get_data())
        with model_time():
            passages = boot.loaded().retriever.retrieve(
                asked.question, top_k=asked.top_k, filters=asked.filters, min_score=asked.min_score
            )
        return Response(payloads.write_passages(passages), mimetype=JSON)

    return app
