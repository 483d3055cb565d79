"""Calibrates an approximate index: the smallest search effort that reaches the target recall.

Effort is FAISS' own parameter: the lists visited (nprobe) or the graph's candidates (efSearch). Recall@10 is the share
of the exact ten nearest vectors among the ten found, over synthetic questions. A question is further from its passage
than passages are from each other, and its neighbours are harder to find: a synthetic one is a passage's vector plus 0.9
times the difference of two others, noise with the passages' own distribution. Its cosine with its passage is near 0.7,
like that of a real question with its best passage (a median of 0.69 on FaQuAD, 0.58 on the default corpus).
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
# Above the documented 0.95, because real questions differ from the synthetic ones.
TARGET_RECALL = 0.96
BLOCK_ROWS = 10_000
# FAISS' k-means asks for at least 39 vectors per list, and gains little from more.
TRAINING_ROWS_A_LIST = 40

_MOST_FLAT_ROWS = 20_000
_MOST_SCALAR_ROWS = 20_000_000
_SEED = 20240817


class VectorRows(Protocol):
    """Vectors that need not be in memory: an array, or an object that reads them when indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dimension)."""

    def __len__(self) -> int: ...

    def __getitem__(self, wanted: slice | Rows, /) -> Vectors:
        """(wanted, dimension)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The measured recall and its effort; `effort` None for an index without such a parameter."""

    recall_at_10: float
    effort: int | None = None


def choose_factory(rows: int, dimension: int) -> str:
    """The FAISS factory string by the number of vectors; ARCHITECTURE.md has the measurements behind it.

    Exact up to 20,000 rows, which are compared in milliseconds. Then 4·√rows lists, rounded to a power of two, of bytes
    instead of floats: a quarter of the memory, nearly the same ranking. Beyond 20 million rows, product quantisation.
    """
    if rows <= _MOST_FLAT_ROWS:
        return "Flat"
    lists = 2 ** round(math.log2(4 * math.sqrt(rows)))
    if rows <= _MOST_SCALAR_ROWS:
        return f"IVF{lists},SQ8"
    bytes_a_row = next(size for size in range(max(1, dimension // 4), 0, -1) if dimension % size == 0)
    return f"IVF{lists},PQ{bytes_a_row}"


def training_sample(vectors: VectorRows, lists: int) -> Vectors:
    """(rows, dimension): a uniform sample of `vectors`, large enough for training; all of them if there are few."""
    wanted = max(TRAINING_ROWS_A_LIST * lists, BLOCK_ROWS)
    if wanted >= len(vectors):
        return vectors[:]
    return vectors[np.sort(np.random.default_rng(_SEED).choice(len(vectors), wanted, replace=False))]


def questions_like(vectors: VectorRows, count: int = QUERIES) -> Vectors:
    """(count, dimension), unit length: synthetic questions over `vectors`."""
    rng = np.random.default_rng(_SEED + 1)
    near, one, other = (vectors[np.sort(rng.integers(0, len(vectors), count))] for _ in range(3))
    blended = near + np.float32(_DISTANCE) * (rng.permutation(one) - rng.permutation(other))
    lengths = np.linalg.norm(blended, axis=1, keepdims=True)
    return np.asarray(blended / np.maximum(lengths, 1e-9), dtype=np.float32)


def exact_neighbours(queries: Vectors, vectors: VectorRows, count: int = NEIGHBOURS) -> Rows:
    """(queries, count): the rows of the largest cosines, unordered, by comparison with every vector."""
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
    """The share of `exact` (queries, n) that is also in the same query's row of `found`."""
    hits = sum(len(np.intersect1d(mine, true)) for mine, true in zip(found, exact, strict=True))
    return round(hits / exact.size, 4)


def calibrate(
    vectors: VectorRows, search: Callable[[Vectors, int, int | None], NDArray[np.int64]], most_effort: int | None
) -> Calibration:
    """The least effort, in steps of a third to a half, that reaches TARGET_RECALL; else the one with the best recall.

    `search(queries, count, effort)` returns (queries, count) rows. `most_effort` None: the index has no effort to set,
    and only its recall is measured.
    """
    queries = questions_like(vectors)
    exact = exact_neighbours(queries, vectors)
    best = Calibration(-1.0)
    for effort in _efforts(most_effort):
        reached = Calibration(recall(search(queries, exact.shape[1], effort), exact), effort)
        # A thousandth of recall is not worth more effort: what quantisation loses, no search recovers.
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
