"""Hybrid retrieval: embed the question, search vectors and terms, fuse, optionally rerank, and drop duplicates.

Scores lie in [0, 1] and are comparable between questions (see rag.retrieval.fusion): with all-MiniLM-L6-v2 a passage
that answers mostly has 0.3 to 0.7, one that only shares a word or a tone with the question less than 0.2. With a
reranker, the scores are the reranker's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidRequest
from rag.interfaces import Embedder, Passage, Scalar
from rag.retrieval.fusion import Fusion
from rag.retrieval.index import Index
from rag.retrieval.passage_store import Rows, duplicate_key
from rag.retrieval.reranking import Reranker


class HybridRetriever:
    """The Retriever over an index in this process. Thread-safe.

    `candidates`: passages from each search. `rerank_passages`: how many of the best ones the reranker scores.
    `max_passages_per_document`: for answers that should draw on several documents; None for no limit.
    """

    def __init__(
        self,
        index: Index,
        embedder: Embedder,
        *,
        fusion: Fusion | None = None,
        reranker: Reranker | None = None,
        candidates: int = 64,
        rerank_passages: int = 20,
        max_passages_per_document: int | None = None,
    ) -> None:
        self._index = index
        self._embedder = embedder
        self._fusion = fusion or Fusion(embedder)
        self._reranker = reranker
        self._candidates = candidates
        self._rerank_passages = rerank_passages
        self._max_passages_per_document = max_passages_per_document

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        min_score: float | None = None,
    ) -> list[Passage]:
        """At most `top_k` passages, best first, whose metadata match `filters` and whose score is at least `min_score`.

        Filters apply before ranking: if enough passages match, `top_k` are returned. Raises InvalidRequest for `top_k`
        below 1, and for a filter on a field that no passage has.
        """
        if top_k < 1:
            raise InvalidRequest("top_k must be at least 1", field="top_k", value=top_k, limit=1)
        allowed = self._index.matching(filters)
        if self._reranker is None:
            return self._search(question, top_k, allowed, min_score)
        found = self._search(question, max(top_k, self._rerank_passages), allowed, None)
        scores = self._reranker.scores(question, [f"{passage.title}\n{passage.text}" for passage in found])
        reranked = [replace(passage, score=float(score)) for passage, score in zip(found, scores, strict=True)]
        reranked.sort(key=lambda passage: passage.score, reverse=True)
        return [passage for passage in reranked[:top_k] if min_score is None or passage.score >= min_score]

    def _search(self, question: str, top_k: int, allowed: Rows | None, min_score: float | None) -> list[Passage]:
        """The first `top_k` by fused score, without duplicates."""
        matching = len(self._index) if allowed is None else len(allowed)
        query = self._embedder.embed_queries([question])[0]
        lexical = self._index.lexical_scores(question)
        count = max(self._candidates, top_k)
        while True:
            rows = np.union1d(self._index.nearest(query, count, allowed), _best(lexical, count, allowed))
            scores = self._fusion.scores(
                question,
                query,
                cosines=self._index.cosines(query, rows),
                lexical=lexical[rows],
                is_english=self._index.is_english[rows],
            )
            order = np.argsort(-scores, kind="stable")  # ties keep the order of the documents
            passages, below_minimum = self._select(rows[order], scores[order], top_k, min_score)
            # Duplicates may have left fewer than top_k: search deeper, unless the rest scores below the minimum.
            if len(passages) == top_k or below_minimum or count >= matching:
                return passages
            count *= 4

    def _select(
        self, rows: Rows, scores: NDArray[np.float32], top_k: int, min_score: float | None
    ) -> tuple[list[Passage], bool]:
        """The first `top_k`, without duplicates, within the limit per document; whether `min_score` ended the list."""
        passages: list[Passage] = []
        seen: set[bytes] = set()
        of_document: Counter[str] = Counter()
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            if min_score is not None and score < min_score:
                return passages, True
            chunk = self._index.chunk(row)
            key = duplicate_key(chunk.title, chunk.text)
            if key in seen or of_document[chunk.document] == self._max_passages_per_document:
                continue
            seen.add(key)
            of_document[chunk.document] += 1
            passages.append(Passage(chunk.id, chunk.title, chunk.text, score, chunk.metadata))
            if len(passages) == top_k:
                break
        return passages, False


def _best(scores: NDArray[np.float32], count: int, allowed: Rows | None) -> Rows:
    """The rows of the `count` highest scores among `allowed`; only those with a score above 0."""
    rows = np.flatnonzero(scores) if allowed is None else allowed[scores[allowed] > 0]
    if len(rows) <= count:
        return rows
    return rows[np.argpartition(-scores[rows], count - 1)[:count]]
