"""Embedding on Ray fills the same store with the same vectors as embedding locally."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag.documents.embedding_store import KEY_BYTES, EmbeddingStore, embed_texts
from rag.documents.ray_embedding import embed_on_ray
from rag.errors import InvalidRequest
from tests.unit.words_embedder import WordsEmbedder

TEXTS = [f"text number {n} of {n % 7} words" for n in range(600)]


def test_without_ray_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with EmbeddingStore(tmp_path, WordsEmbedder()) as store, pytest.raises(InvalidRequest) as refused:
        embed_on_ray(TEXTS, WordsEmbedder, store, workers=2)
    assert ".[ray]" in str(refused.value.remedy)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed (the extra ray)")
@pytest.mark.filterwarnings("ignore")
def test_on_ray_only_missing_texts_are_embedded_and_the_vectors_are_the_same(tmp_path: Path) -> None:
    import ray  # type: ignore[import-not-found, unused-ignore]

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    counts: list[int] = []
    try:
        with EmbeddingStore(tmp_path, WordsEmbedder()) as store:
            embed_texts(TEXTS[:100], WordsEmbedder().embed_passages, store)
        with EmbeddingStore(tmp_path, WordsEmbedder()) as store:
            vectors = store.vectors(embed_on_ray(TEXTS, WordsEmbedder, store, counts.append, workers=2))[:]
        assert sum(path.stat().st_size for path in tmp_path.glob("shard-*.keys")) == 600 * KEY_BYTES, "once each"
    finally:
        ray.shutdown()
    assert counts[0] == 100
    assert sum(counts) == 600
    np.testing.assert_array_equal(vectors, WordsEmbedder().embed_passages(TEXTS))
