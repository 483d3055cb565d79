"""Embedder and retriever over HTTP: the vector service.

Errors are those of the same parts in this process: the service's own, unchanged, or Unreachable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from typing_extensions import override

from rag.interfaces import Passage, QueryEmbedder, Retriever, Scalar, Vectors
from rag.remote import payloads
from rag.remote.http_client import ServiceClient
from rag.remote.payloads import EmbedRequest, RetrieveRequest, VectorDescription


class RemoteEmbedder(QueryEmbedder):
    """The vector service's embedder."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service
        self._description: VectorDescription | None = None

    @property
    @override
    def name(self) -> str:
        """Raises NotReady until the service has answered once."""
        return self._known().name

    @property
    @override
    def dimension(self) -> int:
        """Raises NotReady until the service has answered once."""
        return self._known().dimension

    @override
    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        body = payloads.write(payloads.EMBED_REQUEST, EmbedRequest(tuple(texts)))
        return payloads.read_vectors(self._service.read("POST", "/embed", body))

    def refresh(self) -> None:
        """Ask the service for its description. Raises NotReady, Failed or Unreachable."""
        self._description = payloads.read_reply(payloads.VECTOR_DESCRIPTION, self._service.health())

    @override
    def close(self) -> None:
        """Close the connections; the service goes on."""
        self._service.close()

    def _known(self) -> VectorDescription:
        if self._description is None:
            self.refresh()
        assert self._description is not None, "refresh() sets it or raises"
        return self._description


class RemoteRetriever(Retriever):
    """The vector service's retriever."""

    def __init__(self, service: ServiceClient) -> None:
        self._service = service

    @override
    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        min_score: float | None = None,
    ) -> list[Passage]:
        plain = None if filters is None else {name: _plain(value) for name, value in filters.items()}
        body = payloads.write(payloads.RETRIEVE_REQUEST, RetrieveRequest(question, top_k, plain, min_score))
        return payloads.read_reply(payloads.PASSAGES, self._service.read("POST", "/retrieve", body))


def _plain(value: Scalar | Sequence[Scalar]) -> Scalar | list[Scalar]:
    return value if isinstance(value, str | int | float | bool) else list(value)
