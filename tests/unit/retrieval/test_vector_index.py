"""Vector search finds the nearest vectors with every factory and filter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import IndexRefused
from rag.interfaces import Vectors
from rag.retrieval import vector_index as vectors_module
from rag.retrieval.vector_index import VectorIndex, refuse_factory

FACTORIES = ["Flat", "HNSW32", "IVF4,Flat", "SQ8", "PCA8,IVF4,Flat"]


def unit(count: int, seed: int = 0) -> Vectors:
    rows = np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


VECTORS = unit(400)
QUERY: NDArray[np.float32] = unit(1, seed=1)[0]


def loaded(tmp_path: Path, factory: str) -> VectorIndex:
    VectorIndex.build(VECTORS, factory)[0].save(tmp_path / "vectors.faiss")
    return VectorIndex.load(tmp_path / "vectors.faiss")


@pytest.mark.parametrize("factory", FACTORIES)
def test_every_factory_finds_a_vector_by_itself_after_a_round_trip(tmp_path: Path, factory: str) -> None:
    index = loaded(tmp_path, factory)
    assert (len(index), index.dimension) == (400, 16)
    for row in (0, 17, 399):
        assert row in index.nearest(VECTORS[row], 25), "quantisation may rank others before it"


def test_flat_is_exact(tmp_path: Path) -> None:
    index = loaded(tmp_path, "Flat")
    assert index.nearest(QUERY, 7).tolist() == sorted(np.argsort(-VECTORS @ QUERY)[:7].tolist())
    rows = np.array([3, 399, 0])
    np.testing.assert_allclose(index.cosines(QUERY, rows), VECTORS[rows] @ QUERY, atol=1e-6)


@pytest.mark.parametrize("exact_rows", [50_000, 0], ids=["exhaustive", "index with a selector"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_a_filter_applies_before_ranking(
    tmp_path: Path, factory: str, exact_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "_EXACT_ROWS", exact_rows)
    index = loaded(tmp_path, factory)
    far = np.sort(np.argsort(VECTORS @ QUERY)[:12])  # an unfiltered search would hardly find these
    assert index.nearest(QUERY, 12, far).tolist() == far.tolist(), "all twelve match the filter"
    found = index.nearest(QUERY, 3, far)
    assert len(found) == 3
    assert set(found.tolist()) <= set(far.tolist())


def test_at_most_the_existing_rows_are_returned(tmp_path: Path) -> None:
    index = loaded(tmp_path, "Flat")
    assert len(index.nearest(QUERY, 1000)) == 400
    assert len(index.nearest(QUERY, 5, np.empty(0, dtype=np.int64))) == 0


@pytest.mark.parametrize("factory", ["Nonsense", "", "IVF,Flat", "Flat,,"])
def test_an_unknown_factory_is_refused_by_name(factory: str) -> None:
    with pytest.raises(IndexRefused, match="FAISS knows no index") as refused:
        refuse_factory(factory, 16)
    assert refused.value.value == factory


def test_a_factory_with_more_lists_than_vectors_is_refused_with_the_figures() -> None:
    with pytest.raises(IndexRefused, match=r"'IVF1024,Flat' over 400 vectors.*1024") as refused:
        VectorIndex.build(VECTORS, "IVF1024,Flat")
    assert "FAISS can't build" in refused.value.message
    assert "/" not in refused.value.message, "no C++ source path"


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vectors.faiss").write_bytes(b"not an index" * 10)
    with pytest.raises(IndexRefused, match="holds no FAISS index"):
        VectorIndex.load(tmp_path / "vectors.faiss")
