"""Recall and latency of vector indexes (Flat, IVF, HNSW, PQ) at any number of rows.

    python -m benchmarks.search.index_scale --rows 1000000                  create vectors, build, measure
    python -m benchmarks.search.index_scale --rows 100000 --factory HNSW32
    python -m benchmarks.search.index_scale --rows 1000000 --measure-only   measure an index built before

The vectors are synthetic, because embedding a million passages takes a day on two cores: a mixture of 5,000 clusters
around a common mean, with centres and deviations drawn from one decaying spectrum. Its participation ratio (the
effective number of dimensions) is 56, more than that of all-MiniLM-L6-v2 on FaQuAD and on the default corpus (39 and
28), so neighbours are harder to separate; questions are as far from their nearest passage as real ones (a median cosine
of 0.68; 0.69 on FaQuAD, 0.58 on the corpus). Recall is relative to an exact search; latency is that of sequential
single questions in one process. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from rag.errors import IndexRefused
from rag.interfaces import Vectors
from rag.retrieval.calibration import BLOCK_ROWS, NEIGHBOURS, choose_factory, exact_neighbours, recall
from rag.retrieval.vector_index import VectorIndex

_SEED = 7
_CLUSTERS = 5000
_CANDIDATES = 64  # the hybrid retriever's candidates per search


class Mixture:
    """The distribution in the module's docstring, over `dimension` components."""

    def __init__(self, dimension: int) -> None:
        rng = np.random.default_rng(_SEED)
        place = np.arange(1, dimension + 1)
        spectrum = place**-0.3 * np.exp(-place / 45)
        self._scale = np.sqrt(spectrum / spectrum.sum()).astype(np.float32)
        self._mean = np.float32(0.6) * _unit(rng.standard_normal((1, dimension)))
        self._centres = self._draw(rng, _CLUSTERS)

    def passages(self, rows: int, block: int) -> Vectors:
        """(rows, dimension): block number `block`."""
        rng = np.random.default_rng((_SEED, 1, block))
        centres = self._centres[rng.integers(0, _CLUSTERS, rows)]
        return _unit(self._mean + np.float32(0.75) * centres + np.float32(0.6) * self._draw(rng, rows))

    def questions(self, passages: Vectors) -> Vectors:
        """(questions, dimension): one near each of `passages`."""
        rng = np.random.default_rng((_SEED, 2))
        return _unit(passages + np.float32(1.1) * self._draw(rng, len(passages)))

    def _draw(self, rng: np.random.Generator, rows: int) -> Vectors:
        drawn: Vectors = rng.standard_normal((rows, len(self._scale)), dtype=np.float32) * self._scale
        return drawn


def _unit(rows: NDArray[np.floating]) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class VectorFile:
    """float32 rows in a file, mapped only during a read, so that they don't count as this process's memory."""

    def __init__(self, path: Path, rows: int, dimension: int) -> None:
        self._path = path
        self.shape: tuple[int, ...] = (rows, dimension)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: slice | NDArray[np.int64], /) -> Vectors:
        mapped = np.memmap(self._path, dtype=np.float32, mode="r", shape=self.shape)
        return np.array(mapped[wanted], dtype=np.float32)


def vectors_of(directory: Path, rows: int, dimension: int) -> VectorFile:
    """The synthetic vectors, created unless their file exists."""
    path = directory / f"vectors-{rows}x{dimension}.f32"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        mixture = Mixture(dimension)
        draft = path.with_suffix(".draft")
        with draft.open("wb") as file, tqdm(total=rows, desc="creating vectors", unit="row") as bar:
            for block, start in enumerate(range(0, rows, BLOCK_ROWS)):
                count = min(BLOCK_ROWS, rows - start)
                file.write(mixture.passages(count, block).tobytes())
                bar.update(count)
        draft.rename(path)
    return VectorFile(path, rows, dimension)


def questions_of(directory: Path, vectors: VectorFile, count: int) -> tuple[Vectors, NDArray[np.int64]]:
    """Questions near uniformly drawn passages, and the exact neighbours of each."""
    path = directory / f"questions-{len(vectors)}x{vectors.shape[1]}-{count}.npz"
    if not path.exists():
        drawn = np.sort(np.random.default_rng(_SEED + 1).integers(0, len(vectors), count))
        questions = Mixture(vectors.shape[1]).questions(vectors[drawn])
        print(f"exact search for {count} questions", file=sys.stderr)
        np.savez(path, questions=questions, exact=exact_neighbours(questions, vectors))
    stored = np.load(path)
    return stored["questions"], stored["exact"]


def participation_ratio(sample: Vectors) -> float:
    """(Σλ)² / Σλ² of the covariance's eigenvalues: the effective number of dimensions."""
    eigenvalues = np.linalg.eigvalsh(np.cov(sample.T))
    return float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def build(vectors: VectorFile, factory: str, path: Path) -> dict[str, object]:
    """Build, calibrate and save an index; its build figures, also saved next to it for a later --measure-only."""
    start_s = time.perf_counter()
    with tqdm(total=len(vectors), desc=f"building {factory}", unit="row") as bar:
        index, calibration = VectorIndex.build(vectors, factory, bar.update)
    index.save(path)
    figures: dict[str, object] = {
        "build_s": time.perf_counter() - start_s,
        "build_peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "calibrated_recall_at_10": calibration.recall_at_10,
        "effort": calibration.effort,
    }
    path.with_suffix(".json").write_text(json.dumps(figures))
    return figures


def measure(path: Path, questions: Vectors, exact: NDArray[np.int64]) -> dict[str, object]:
    """Recall and latencies of the index in `path`, memory-mapped as in serving."""
    index = VectorIndex.load(path)

    def timed(search: Callable[[NDArray[np.float32]], NDArray[np.int64]], what: str) -> tuple[list[float], float]:
        for question in questions[: len(questions) // 4]:
            search(question)  # warm-up: pages are read from disk
        seconds, found = [], []
        for question in tqdm(questions, desc=what, unit="question"):
            start_s = time.perf_counter()
            rows = search(question)
            seconds.append(time.perf_counter() - start_s)
            found.append(np.pad(rows, (0, max(0, NEIGHBOURS - len(rows))), constant_values=-1))
        reached = float(np.mean([recall(mine[None], true[None]) for mine, true in zip(found, exact, strict=True)]))
        return [1000 * float(np.quantile(seconds, q)) for q in (0.5, 0.99)], reached

    def candidates(question: NDArray[np.float32]) -> NDArray[np.int64]:
        rows = index.nearest(question, _CANDIDATES)
        index.cosines(question, rows)
        return rows

    ten, recall_ten = timed(lambda question: index.nearest(question, NEIGHBOURS), "the nearest ten")
    many, recall_many = timed(candidates, f"{_CANDIDATES} candidates with their cosines")
    return {
        "recall_at_10": recall_ten,
        "p50_ms": ten[0],
        "p99_ms": ten[1],
        "recall_at_10_of_64": recall_many,
        "candidates_p50_ms": many[0],
        "candidates_p99_ms": many[1],
        "bytes": path.stat().st_size,
    }


def show(rows: Sequence[dict[str, object]], console: Console) -> None:
    """Print a row per index."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "rows": lambda row: f"{row['rows']:,}",
        "index": lambda row: str(row["factory"]),
        "effort": lambda row: str(row["effort"] or "–"),
        "recall@10": lambda row: f"{row['recall_at_10']:.3f}",
        "p50 ms": lambda row: f"{row['p50_ms']:.2f}",
        "p99 ms": lambda row: f"{row['p99_ms']:.2f}",
        "64 candidates: recall@10": lambda row: f"{row['recall_at_10_of_64']:.3f}",
        "p99 ms ": lambda row: f"{row['candidates_p99_ms']:.2f}",
        "MB": lambda row: f"{row['bytes'] / 1e6:.0f}",
        "build s": lambda row: f"{row['build_s']:.0f}",
        "peak RSS MB": lambda row: f"{row['build_peak_rss_bytes'] / 1e6:.0f}",
    }
    table = Table()
    for name in columns:
        table.add_column(name, justify="left" if name == "index" else "right")
    for row in rows:
        table.add_row(*(text(row) for text in columns.values()))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--factory", nargs="+", default=["auto"], help="FAISS factory strings; auto: by number of rows")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument(
        "--directory", type=Path, default=Path("build/scale"), help="for vectors and indexes (default: %(default)s)"
    )
    phases = parser.add_mutually_exclusive_group()
    phases.add_argument("--build-only", action="store_true", help="create the vectors and build, without measuring")
    phases.add_argument("--measure-only", action="store_true", help="measure an index that --build-only built")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    vectors = vectors_of(options.directory, options.rows, options.dimension)
    rows: list[dict[str, object]] = []
    for wanted in options.factory:
        factory = choose_factory(*vectors.shape[:2]) if wanted == "auto" else wanted
        path = options.directory / f"{options.rows}x{options.dimension}-{factory.replace(',', '-')}.faiss"
        try:
            stored = path.with_suffix(".json")
            built = json.loads(stored.read_text()) if options.measure_only else build(vectors, factory, path)
        except (IndexRefused, OSError) as error:
            console.print(f"error: {error}")
            return 2
        questions, exact = questions_of(options.directory, vectors, options.questions)
        if not options.build_only:
            rows.append({"rows": options.rows, "factory": factory, **built, **measure(path, questions, exact)})
    if rows:
        show(rows, console)
    ratio = participation_ratio(vectors[:BLOCK_ROWS])
    nearest = [float((vectors[np.sort(exact[i])] @ questions[i]).max()) for i in range(min(200, len(questions)))]
    likeness = {"participation_ratio": ratio, "median_cosine_with_nearest": float(np.median(nearest))}
    print(json.dumps({"dimension": options.dimension, **likeness, "indexes": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
