"""An adapter is bound to its embedder, and changes only texts in its languages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rag.build_index import build
from rag.documents.folder import Document, Folder
from rag.embedding.adapter import DESCRIPTION, WEIGHTS, AdaptedEmbedder, load_adapter, save_adapter
from rag.errors import IndexRefused, ModelRefused
from rag.interfaces import Vectors
from rag.retrieval.index import Index
from tests.unit.embedding.test_fingerprint import NoisyEmbedder
from tests.unit.words_embedder import WordsEmbedder

PT, EN = "Qual é a capital do Brasil e da Bahia?", "What is the capital of the country?"


def rotation() -> Vectors:
    """Any orthogonal map but the identity."""
    return np.roll(np.eye(256, dtype=np.float32), 3, axis=0)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", rotation(), WordsEmbedder(), ["pt"], seed=0)
    return tmp_path / "adapter"


def test_only_texts_in_its_languages_are_mapped(directory: Path) -> None:
    embedder = load_adapter(directory, WordsEmbedder())
    plain = WordsEmbedder().embed_queries([PT, EN])
    for vectors in (embedder.embed_queries([PT, EN]), embedder.embed_passages([PT, EN])):
        np.testing.assert_allclose(vectors[0], rotation() @ plain[0], atol=1e-6)
        np.testing.assert_array_equal(vectors[1], plain[1])
    assert embedder.embed_queries([]).shape == (0, 256)


def test_vectors_keep_length_one() -> None:
    embedder = AdaptedEmbedder(WordsEmbedder(), 3 * rotation(), ["pt"])
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_queries([PT]), axis=1), 1, atol=1e-6)


def change(directory: Path, **entries: object) -> None:
    path = directory / DESCRIPTION
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"embedder": "sentences"}, "trained for embedder 'sentences', but this embedder has 'words'"),
        ({"dimension": 384}, "trained for dimension 384, but this embedder has 256"),
        ({"sha256": "0"}, "adapter.safetensors is corrupt"),
        ({"format": "other"}, "not of the format rag-adapter 1"),
        ({"languages": None}, "can't be read"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_with_the_reason(
    directory: Path, entries: dict[str, object], reason: str
) -> None:
    change(directory, **entries)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_adapter(directory, WordsEmbedder())
    assert "make train" in str(refused.value.remedy)


def test_an_adapter_for_another_model_of_the_same_name_is_refused(directory: Path) -> None:
    with pytest.raises(ModelRefused, match="another model named 'words'"):
        load_adapter(directory, NoisyEmbedder(1.0))


def test_a_missing_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="can't be read"):
        load_adapter(tmp_path, WordsEmbedder())


@pytest.mark.parametrize("weights", [np.eye(8), np.full((256, 256), np.nan)], ids=["another shape", "not finite"])
def test_invalid_weights_are_refused(tmp_path: Path, weights: Vectors) -> None:
    save_adapter(tmp_path, weights, WordsEmbedder(), ["pt"])
    with pytest.raises(ModelRefused, match="not finite float32 of 256 × 256"):
        load_adapter(tmp_path, WordsEmbedder())
    assert (tmp_path / WEIGHTS).exists()


def test_an_index_built_without_the_adapter_is_refused_with_it_and_vice_versa(directory: Path, tmp_path: Path) -> None:
    folder = Folder(
        [Document("a", "Capital", "Brasília é a capital do Brasil.", {"language": "pt", "source": "a"})], []
    )
    build(folder, tmp_path / "plain", WordsEmbedder())
    build(folder, tmp_path / "adapted", load_adapter(directory, WordsEmbedder()))
    Index.load(tmp_path / "adapted", load_adapter(directory, WordsEmbedder()))
    with pytest.raises(IndexRefused, match=r"built with embedder 'words', but this server's is 'words.adapter-"):
        Index.load(tmp_path / "plain", load_adapter(directory, WordsEmbedder()))
    with pytest.raises(IndexRefused, match=r"built with embedder 'words.adapter-"):
        Index.load(tmp_path / "adapted", WordsEmbedder())
