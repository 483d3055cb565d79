"""Embedder and retriever over HTTP give the same records as in one process."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag.remote.remote_retrieval import RemoteEmbedder, RemoteRetriever
from tests.fakes import FakeEmbedder, FakeRetriever
from tests.services import serving, vector_app
from tests.unit.remote.clients import service_client


def test_passages_and_vectors_arrive_unchanged() -> None:
    with serving(vector_app()) as url:
        service = service_client(url)
        embedder = RemoteEmbedder(service)
        assert (embedder.name, embedder.dimension) == ("fake-embedder", 8)
        texts = ["Olá", "mundo"]
        assert np.array_equal(embedder.embed_queries(texts), FakeEmbedder().embed_queries(texts))
        asked: dict[str, Any] = {"top_k": 3, "filters": {"language": "pt"}, "min_score": 0.1}
        found = RemoteRetriever(service).retrieve("q", **asked)
        assert found == FakeRetriever().retrieve("q", **asked)
        embedder.close()
