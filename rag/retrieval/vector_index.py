"""Vector search by FAISS: any index that a factory string describes, over unit vectors by inner product (cosine)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import IndexRefused
from rag.interfaces import Vectors
from rag.retrieval.calibration import BLOCK_ROWS, Calibration, VectorRows, calibrate, training_sample
from rag.retrieval.passage_store import Rows

# Up to so many allowed passages, a filtered search compares the query with each of them: exact, and faster than a graph
# search that has to skip most nodes (50,000 × 384 components are 77 MB, some 10 ms of memory traffic).
_EXACT_ROWS = 50_000
_MOST_GRAPH_CANDIDATES = 1024


class VectorIndex:
    """A trained FAISS index with every vector in it. Searches are thread-safe."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(
        cls, vectors: VectorRows, factory: str, progress: Callable[[int], object] | None = None
    ) -> tuple[VectorIndex, Calibration]:
        """Train on a sample of `vectors` (rows, dimension), add all of them block by block, and calibrate the search.

        Memory holds the index itself, the sample, which FAISS copies while training, and one block. `progress` is
        called with counts of added rows. Raises IndexRefused for a string that FAISS does not know, and for one that
        needs more vectors to train on.
        """
        index = _empty(factory, vectors.shape[1])
        inverted = _inverted_lists(index)
        try:
            if not index.is_trained:
                index.train(training_sample(vectors, inverted.nlist if inverted is not None else 0))
            for start in range(0, len(vectors), BLOCK_ROWS):
                block = vectors[start : start + BLOCK_ROWS]
                index.add(block)
                if progress is not None:
                    progress(len(block))
            if inverted is not None:
                inverted.make_direct_map()  # cosines() needs the map from a row to its vector
            cls(index).cosines(vectors[:1][0], np.zeros(1, dtype=np.int64))
        except (RuntimeError, AssertionError) as error:
            raise IndexRefused(
                f"FAISS can't build {factory!r} over {len(vectors)} vectors of {vectors.shape[1]}: {_reason(error)}",
                field="factory",
                value=factory,
                remedy="use Flat, or a factory with fewer lists and shorter codes",
            ) from error
        built = cls(index)
        calibration = Calibration(1.0) if factory == "Flat" else calibrate(vectors, built._rows, built._most_effort())
        built._set_effort(calibration.effort)
        return built, calibration

    @classmethod
    def load(cls, path: Path) -> VectorIndex:
        """Map the file: with IO_FLAG_MMAP_IFC, vectors, codes and graph are paged in on access."""
        faiss = _faiss()
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise IndexRefused(f"{path} holds no FAISS index: {_reason(error)}", value=str(path)) from error
        return cls(index)

    def save(self, path: Path) -> None:
        """Write the index to one file."""
        _faiss().write_index(self._index, str(path))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dimension(self) -> int:
        """Components of one vector."""
        return int(self._index.d)

    def nearest(self, query: NDArray[np.float32], count: int, allowed: Rows | None = None) -> Rows:
        """The rows of the `count` vectors nearest to `query` (dimension,) among `allowed`, or fewer if there are fewer.

        Rows are ascending, not by distance; cosines() gives those. Approximate if the factory is.
        """
        count = min(count, len(self) if allowed is None else len(allowed))
        if count == 0:
            return np.empty(0, dtype=np.int64)
        if allowed is not None and len(allowed) <= _EXACT_ROWS:
            return self._nearest_of(query, count, allowed)
        _, found = self._index.search(query[None], count, params=self._parameters(allowed))
        rows: Rows = np.unique(found[0][found[0] >= 0])
        if allowed is not None and len(rows) < count:
            # The visited lists, or the visited part of the graph, contain too few of the allowed rows.
            return self._nearest_of(query, count, allowed)
        return rows

    def cosines(self, query: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """(len(rows),): the cosine of `query` with each row's vector, as precise as the factory's codes."""
        found = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            found[start : start + len(block)] = self._index.reconstruct_batch(block) @ query
        return found

    def _nearest_of(self, query: NDArray[np.float32], count: int, allowed: Rows) -> Rows:
        if count >= len(allowed):
            return allowed
        best = np.argpartition(-self.cosines(query, allowed), count - 1)[:count]
        return np.sort(allowed[best])

    def _rows(self, queries: Vectors, count: int, effort: int | None) -> NDArray[np.int64]:
        self._set_effort(effort)
        found: NDArray[np.int64] = self._index.search(queries, count)[1]
        return found

    def _most_effort(self) -> int | None:
        if (inverted := _inverted_lists(self._index)) is not None:
            return int(inverted.nlist)
        return _MOST_GRAPH_CANDIDATES if _graph(self._index) is not None else None

    def _set_effort(self, effort: int | None) -> None:
        """FAISS saves it with the index, so that a loaded index searches with the same effort."""
        if effort is None:
            return
        if (inverted := _inverted_lists(self._index)) is not None:
            inverted.nprobe = effort
        elif (graph := _graph(self._index)) is not None:
            graph.efSearch = effort

    def _parameters(self, allowed: Rows | None) -> Any:
        """FAISS' search parameters that restrict to `allowed`; each kind of index has its own class and defaults."""
        faiss = _faiss()
        if allowed is None:
            return None
        # FAISS takes one bit per row, eight per byte, least significant first.
        bits = np.zeros(len(self), dtype=np.bool_)
        bits[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        index = faiss.downcast_index(self._index)
        if isinstance(index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=_plain(faiss.downcast_index(index.index), selector))
        return _plain(index, selector)


def refuse_factory(factory: str, dimension: int) -> None:
    """Raise IndexRefused for a string that FAISS does not know, before hours of embedding."""
    _empty(factory, dimension)


@cache
def _faiss() -> Any:
    """The library, imported at its first use. Untyped, because its stubs lack its Python constructors."""
    import faiss  # noqa: PLC0415 - heavy

    return faiss


def _empty(factory: str, dimension: int) -> Any:
    faiss = _faiss()
    try:
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, AssertionError) as error:
        raise IndexRefused(
            f"FAISS knows no index {factory!r} over {dimension} dimensions: {_reason(error)}",
            field="factory",
            value=factory,
            remedy="use Flat, HNSW32 or IVF64,Flat",
        ) from error


def _plain(index: Any, selector: Any) -> Any:
    faiss = _faiss()
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(sel=selector, nprobe=index.nprobe)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(sel=selector, efSearch=index.hnsw.efSearch)
    return faiss.SearchParameters(sel=selector)


def _inverted_lists(index: Any) -> Any | None:
    return _faiss().try_extract_index_ivf(index)


def _graph(index: Any) -> Any | None:
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    return index.hnsw if isinstance(index, faiss.IndexHNSW) else None


def _reason(error: Exception) -> str:
    """FAISS' message without the leading C++ signature and file name."""
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error)).strip() or "refused"
