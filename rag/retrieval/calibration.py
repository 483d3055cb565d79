"""How hard an approximate index has to look: the least effort that finds what an exact search finds.

Effort is FAISS' own figure: the lists visited (nprobe) or the graph's candidates (efSearch). Recall@10 is the share of
the exact ten nearest vectors that are among the ten found, over stand-ins for questions. A question lies further from
its passage than passages do from each other, and its neighbours are harder to find: a stand-in is a passage's vector
plus 0.9 times the difference of two others, noise that varies as the passages do. Its cosine with its passage is near
0.7, as that of a real question with its best passage is (a median of 0.69 on FaQuAD, 0.58 on the default corpus).
Knows nothing about FAISS: it is given a search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rag.interfaces import Vectors
from rag.retrieval.passage_store import Rows

NEIGHBOURS = 10
QUERIES = 256
_DISTANCE = 0.9
# Above the 0.95 that is promised, because real questions differ from the stand-ins.
TARGET_RECALL = 0.96
BLOCK_ROWS = 10_000
# FAISS' k-means wants at least 39 vectors a list, and gains little from more.
TRAINING_ROWS_A_LIST = 40

_MOST_FLAT_ROWS = 20_000
_MOST_SCALAR_ROWS = 20_000_000
_SEED = 20240817


class VectorRows(Protocol):
    """Vectors that need not be in memory: an array, or something that reads them when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dimension)."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice | Rows, /) -> Vectors:
        """(wanted, dimension)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was found. `effort` is None for an index that has none to set."""

    recall_at_10: float
    effort: int | None = None


def choose_factory(rows: int, dimension: int) -> str:
    """The FAISS factory string for so many vectors; ARCHITECTURE.md has the measurements behind it.

    Exact up to 20,000 rows, which are compared in milliseconds. Then 4·√rows lists, rounded to a power of two, of bytes
    instead of floats: a quarter of the memory at nearly the same order. Beyond what that fits, product quantisation.
    """
    if rows <= _MOST_FLAT_ROWS:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(rows)))
    if rows <= _MOST_SCALAR_ROWS:
        return f"IVF{lists},SQ8"
    bytes_a_row = next(size for size in range(max(1, dimension // 4), 0, -1) if dimension % size == 0)
    return f"IVF{lists},PQ{bytes_a_row}"


def training_sample(vectors: VectorRows, lists: int) -> Vectors:
    """(rows, dimension): enough of `vectors`, drawn evenly, to train on; all of them when they are few."""
    wanted = max(TRAINING_ROWS_A_LIST * lists, BLOCK_ROWS)
    if wanted >= len(vectors):
        return vectors[:]
    return vectors[np.sort(np.random.default_rng(_SEED).choice(len(vectors), wanted, replace=False))]


def questions_like(vectors: VectorRows, count: int = QUERIES) -> Vectors:
    """(count, dimension), unit length: stand-ins for questions over `vectors`."""
    rng = np.random.default_rng(_SEED + 1)
    near, one, other = (vectors[np.sort(rng.integers(0, len(vectors), count))] for _ in range(3))
    blended = near + np.float32(_DISTANCE) * (rng.permutation(one) - rng.permutation(other))
    lengths = np.linalg.norm(blended, axis=1, keepdims=True)
    return np.asarray(blended / np.maximum(lengths, 1e-9), dtype=np.float32)


def exact_neighbours(queries: Vectors, vectors: VectorRows, count: int = NEIGHBOURS) -> Rows:
    """(queries, count): the rows of the largest cosines, in no order, by comparing with every vector once."""
    count = min(count, len(vectors))
    scores: Vectors = np.empty((len(queries), 0), dtype=np.float32)
    rows: Rows = np.empty((len(queries), 0), dtype=np.int64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = queries @ vectors[start : start + BLOCK_ROWS].T
        numbers = np.broadcast_to(np.arange(start, start + block.shape[1]), block.shape)
        scores, rows = np.hstack([scores, block]), np.hstack([rows, numbers])
        if scores.shape[1] > count:
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
    return rows


def recall(found: NDArray[np.int64], exact: Rows) -> float:
    """The share of `exact` (queries, n) that is in the same row of `found`."""
    hits = sum(len(np.intersect1d(mine, true)) for mine, true in zip(found, exact, strict=True))
    return round(hits / exact.size, 4)


def calibrate(
    vectors: VectorRows, search: Callable[[Vectors, int, int | None], NDArray[np.int64]], most_effort: int | None
) -> Calibration:
    """The least effort, in steps of a third to a half, that reaches TARGET_RECALL; the best there is when none does.

    `search(queries, count, effort)` gives (queries, count) rows. `most_effort` None: there is nothing to set, only the
    recall to know.
    """
    queries = questions_like(vectors)
    exact = exact_neighbours(queries, vectors)
    best = Calibration(-1.0)
    for effort in _efforts(most_effort):
        reached = Calibration(recall(search(queries, exact.shape[1], effort), exact), effort)
        # More effort for a thousandth of recall is not worth its time: codes lose what no search brings back.
        if reached.recall_at_10 > best.recall_at_10 + 0.001:
            best = reached
        if reached.recall_at_10 >= TARGET_RECALL:
            break
    return best


def _efforts(most: int | None) -> Iterator[int | None]:
    if most is None:
        yield None
        return
    effort = 1
    while effort < most:
        yield effort  # 1, 2, 3, 4, 6, 8, 12, 16, 24, …
        effort = max(effort + 1, effort * 4 // 3 if effort & (effort - 1) else effort * 3 // 2)
    yield most
