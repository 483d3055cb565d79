"""Nearest vectors by FAISS: any index that a factory string describes, over unit vectors by inner product (cosine)."""

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

# Up to so many passages a filter is answered by comparing with each of them: exact, and quicker than a graph walk
# that has to skip most of what it meets (50,000 × 384 components are 77 MB, some 10 ms of memory traffic).
_EXACT_ROWS = 50_000
_MOST_GRAPH_CANDIDATES = 1024


class VectorIndex:
    """A trained FAISS index with every vector in it. Safe to search from many threads."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(
        cls, vectors: VectorRows, factory: str, progress: Callable[[int], object] | None = None
    ) -> tuple[VectorIndex, Calibration]:
        """Train on a sample of `vectors` (rows, dimension), add them block by block, and set how hard to search.

        In memory are the index itself, the sample, which FAISS copies while it trains, and one block. `progress` is
        told of rows added. Raises IndexRefused for a string that FAISS does not know, and for one that needs more
        vectors to train on.
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
                inverted.make_direct_map()  # for cosines(): from a row to its vector
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
        """Map the file: IO_FLAG_MMAP_IFC leaves vectors, codes and graph in it and pages them in when they're read."""
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
        """The rows of the `count` vectors nearest to `query` (dimension,) among `allowed`, as many as there are.

        Rows come ascending, not by nearness: ask cosines() for that. Approximate where the factory is.
        """
        count = min(count, len(self) if allowed is None else len(allowed))
        if count == 0:
            return np.empty(0, dtype=np.int64)
        if allowed is not None and len(allowed) <= _EXACT_ROWS:
            return self._nearest_of(query, count, allowed)
        _, found = self._index.search(query[None], count, params=self._parameters(allowed))
        rows: Rows = np.unique(found[0][found[0] >= 0])
        if allowed is not None and len(rows) < count:
            # The lists or the part of the graph that were visited hold too few of the allowed ones.
            return self._nearest_of(query, count, allowed)
        return rows

    def cosines(self, query: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """(len(rows),): the cosine of `query` with each row's vector, as exactly as the factory stores it."""
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
        """FAISS writes it into the file, so that whoever loads the index searches as hard."""
        if effort is None:
            return
        if (inverted := _inverted_lists(self._index)) is not None:
            inverted.nprobe = effort
        elif (graph := _graph(self._index)) is not None:
            graph.efSearch = effort

    def _parameters(self, allowed: Rows | None) -> Any:
        """FAISS' search parameters that keep to `allowed`; each kind of index has its own class, and its defaults."""
        faiss = _faiss()
        if allowed is None:
            return None
        # Faiss wants the bits of all rows, eight to a byte, the first in the lowest bit.
        bits = np.zeros(len(self), dtype=np.bool_)
        bits[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
        index = faiss.downcast_index(self._index)
        if isinstance(index, faiss.IndexPreTransform):
            return faiss.SearchParametersPreTransform(index_params=_plain(faiss.downcast_index(index.index), selector))
        return _plain(index, selector)


def refuse_factory(factory: str, dimension: int) -> None:
    """Raise IndexRefused for a string that FAISS does not know: before hours of embedding, not after."""
    _empty(factory, dimension)


@cache
def _faiss() -> Any:
    """The library, untyped: the stubs it ships don't know its Python constructors. Imported at its first use."""
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
    """FAISS' message without the C++ signature and the file that come before it."""
    return re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", str(error)).strip() or "refused"
