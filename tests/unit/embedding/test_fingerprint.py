"""A model is identified by its vector of a fixed text, not only by its name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rag.embedding.fingerprint import fingerprint, same_model
from rag.errors import IndexRefused
from rag.interfaces import Vectors
from rag.retrieval.index import Index, build_index
from rag.retrieval.manifest import MANIFEST
from rag.retrieval.passage_store import Chunk
from tests.unit.words_embedder import WordsEmbedder

CHUNKS = [Chunk("a#1", "a", "Capital", "Brasília é a capital.", {"language": "pt", "source": "a"})]


class NoisyEmbedder(WordsEmbedder):
    """Adds noise to the vectors, like other hardware (little) or other weights or prefixes (more)."""

    def __init__(self, noise: float) -> None:
        self._noise = noise

    def embed_passages(self, texts: Sequence[str], progress: object = None) -> Vectors:
        vectors = super().embed_passages(texts)
        vectors += np.random.default_rng(0).normal(0, self._noise / 16, vectors.shape).astype(np.float32)
        unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def test_fingerprints_tolerate_rounding_but_not_other_weights() -> None:
    mine = fingerprint(WordsEmbedder())
    assert same_model(mine, fingerprint(WordsEmbedder()))
    assert same_model(mine, fingerprint(NoisyEmbedder(0.01)))
    assert not same_model(mine, fingerprint(NoisyEmbedder(0.1)))


@pytest.mark.parametrize("text", ["", "no base64!", "AAA", "AAAA", "é"])
def test_an_invalid_fingerprint_matches_no_model(text: str) -> None:
    assert not same_model(text, fingerprint(WordsEmbedder()))
    assert not same_model(text, text)


def built(tmp_path: Path) -> Path:
    build_index(CHUNKS, WordsEmbedder().embed_passages(["a"]), tmp_path / "index", embedder=WordsEmbedder())
    return tmp_path / "index"


def test_an_index_of_another_model_of_the_same_name_is_refused(tmp_path: Path) -> None:
    directory = built(tmp_path)
    Index.load(directory, NoisyEmbedder(0.001))
    with pytest.raises(IndexRefused, match="another model named 'words', or with another passage prefix"):
        Index.load(directory, NoisyEmbedder(1.0))


def test_an_index_without_a_fingerprint_loads_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = built(tmp_path)
    manifest = json.loads((directory / MANIFEST).read_text())
    del manifest["fingerprint"]
    (directory / MANIFEST).write_text(json.dumps(manifest))
    assert len(Index.load(directory, WordsEmbedder())) == 1
    assert "only its name was checked" in caplog.text
