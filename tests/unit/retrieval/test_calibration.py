"""Calibration finds the least search effort that reaches the target recall, and records both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.interfaces import Vectors
from rag.retrieval import calibration
from rag.retrieval.calibration import (
    TARGET_RECALL,
    calibrate,
    choose_factory,
    exact_neighbours,
    questions_like,
    recall,
    training_sample,
)
from rag.retrieval.index import Index, build_index
from rag.retrieval.manifest import MANIFEST
from rag.retrieval.passage_store import Chunk
from rag.retrieval.vector_index import VectorIndex, refuse_factory
from tests.unit.words_embedder import WordsEmbedder


def clustered(count: int, dimension: int = 16) -> Vectors:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, dimension))[rng.integers(0, 40, count)] + 0.5 * rng.standard_normal(
        (count, dimension)
    )
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


VECTORS = clustered(3000)


@pytest.mark.parametrize(
    ("rows", "factory"),
    [
        (1, "Flat"),
        (20_000, "Flat"),
        (100_000, "IVF1024,SQ8"),
        (1_000_000, "IVF4096,SQ8"),
        (50_000_000, "IVF32768,PQ96"),
    ],
)
def test_the_factory_depends_on_the_size_and_is_known_to_faiss(rows: int, factory: str) -> None:
    assert choose_factory(rows, 384) == factory
    refuse_factory(factory, 384)


def test_exact_neighbours_are_exact_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BLOCK_ROWS", 700)
    queries = questions_like(VECTORS, 20)
    expected = np.argsort(-(queries @ VECTORS.T), axis=1)[:, :10]
    assert recall(exact_neighbours(queries, VECTORS), expected) == 1.0


def test_synthetic_questions_are_unit_vectors_near_passages_but_equal_to_none() -> None:
    queries = questions_like(VECTORS)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    nearest = (queries @ VECTORS.T).max(axis=1)
    assert 0.5 < np.median(nearest) < 0.98


def test_the_training_sample_is_as_large_as_the_number_of_lists_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "BLOCK_ROWS", 100)
    assert training_sample(VECTORS, 10).shape == (400, 16)
    assert training_sample(VECTORS, 1000).shape == VECTORS.shape


def test_the_least_effort_that_reaches_the_target_recall_is_chosen() -> None:
    exact = exact_neighbours(questions_like(VECTORS), VECTORS)
    tried = []

    def search(queries: Vectors, count: int, effort: int | None) -> NDArray[np.int64]:
        assert effort is not None
        tried.append(effort)
        found = exact.copy()
        found[:, min(effort, 10) :] = -1  # an effort of n finds n tenths
        return found

    chosen = calibrate(VECTORS, search, 64)
    assert (chosen.effort, chosen.recall_at_10) == (12, 1.0)
    assert tried == [1, 2, 3, 4, 6, 8, 12]


def test_effort_that_does_not_improve_recall_is_not_chosen() -> None:
    exact = exact_neighbours(questions_like(VECTORS), VECTORS)

    def lossy(queries: Vectors, count: int, effort: int | None) -> NDArray[np.int64]:
        found = exact.copy()
        found[:, 5:] = -1
        return found

    assert calibrate(VECTORS, lossy, 64).effort == 1
    assert calibrate(VECTORS, lossy, 64).recall_at_10 == 0.5


@pytest.mark.parametrize("factory", ["IVF32,SQ8", "HNSW16", "IVF32,Flat", "PCA12,IVF32,Flat"])
def test_the_calibrated_effort_is_saved_with_the_index_and_reaches_its_recall(tmp_path: Path, factory: str) -> None:
    built, found = VectorIndex.build(VECTORS, factory)
    assert found.effort is not None
    if not factory.startswith("PCA"):  # what the dropped components lose, no search recovers
        assert found.recall_at_10 >= TARGET_RECALL
    built.save(tmp_path / "vectors.faiss")
    loaded = VectorIndex.load(tmp_path / "vectors.faiss")
    queries = questions_like(VECTORS)
    rows = np.array([loaded.nearest(query, 10) for query in queries])
    assert recall(rows, exact_neighbours(queries, VECTORS)) == found.recall_at_10


def test_the_manifest_records_recall_and_effort(tmp_path: Path) -> None:
    chunks = [Chunk(f"a#{n}", "a", "", f"word{n} word{n % 5}", {"language": "en", "source": "a"}) for n in range(60)]
    vectors = clustered(60, 256)
    build_index(chunks, vectors, tmp_path / "ivf", embedder=WordsEmbedder(), factory="IVF2,Flat")
    manifest = json.loads((tmp_path / "ivf" / MANIFEST).read_text())
    assert manifest["recall_at_10"] > 0.8
    assert manifest["search_effort"] in (1, 2)
    build_index(chunks, vectors, tmp_path / "auto", embedder=WordsEmbedder())
    loaded = Index.load(tmp_path / "auto", WordsEmbedder()).manifest
    assert (loaded.factory, loaded.recall_at_10, loaded.search_effort) == ("Flat", 1.0, None)
