"""A fake embedder with meaningful cosines: the share of words that two texts have in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np

from rag.interfaces import Vectors


class WordsEmbedder:
    """A bag of words, each hashed to one of 256 axes. Every word is a token."""

    name = "words"
    dimension = 256
    max_tokens = 64

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()) or ["?"]:
                vectors[row, blake2b(word.encode()).digest()[0]] += 1
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def embed_passages(self, texts: Sequence[str], progress: Callable[[int], object] | None = None) -> Vectors:
        if progress is not None:
            progress(len(texts))
        return self.embed_queries(texts)

    def token_spans(self, text: str) -> list[tuple[int, int]]:
        return [match.span() for match in re.finditer(r"\S+", text)]

    def reads_portuguese(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing to close."""
