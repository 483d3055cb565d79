"""The index: passages, their vectors and their terms, in one directory.

`build_index` writes it; `Index.load` is the only way to open it. rag.retrieval.hybrid combines its two searches.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.embedding.fingerprint import fingerprint, same_model
from rag.errors import IndexRefused
from rag.interfaces import Embedder
from rag.retrieval import lexical_index
from rag.retrieval.calibration import VectorRows, choose_factory
from rag.retrieval.lexical_index import LexicalIndex
from rag.retrieval.manifest import REBUILD, Manifest, read_manifest, write_manifest, writing
from rag.retrieval.passage_store import Chunk, Filters, PassageStore, Rows, write_passages
from rag.retrieval.vector_index import VectorIndex

DEFAULT_FACTORY = "auto"
"""Choose the factory by the number of passages."""

_PASSAGES, _VECTORS, _LEXICAL = "passages.jsonl", "vectors.faiss", "lexical"
_log = logging.getLogger(__name__)
_FILES = (_PASSAGES, _VECTORS, *(f"{_LEXICAL}/{name}" for name in lexical_index.FILES))


def indexed_text(chunk: Chunk) -> str:
    """The text of a chunk that is embedded and searched: title and text."""
    return f"{chunk.title}\n{chunk.text}"


def build_index(
    chunks: Iterable[Chunk],
    vectors: VectorRows | Callable[[Iterator[str]], VectorRows],
    directory: Path,
    *,
    embedder: Embedder,
    factory: str = DEFAULT_FACTORY,
    progress: Callable[[int], object] | None = None,
) -> Manifest:
    """Write the index of `chunks` to `directory`, replacing an existing one atomically.

    `vectors` (chunks, dimension) are those of each chunk's indexed_text by `embedder`, or a function that computes them
    from those texts; loading requires the same embedder. Chunks are written as they come and read back from disk, so
    neither they nor the vectors need to fit in memory. `progress` is called with counts of added vectors. Raises
    IndexRefused without any chunks, and for a factory string that can't be built over them.
    """
    with writing(directory) as draft:
        if not write_passages(draft / _PASSAGES, chunks):
            raise IndexRefused("there is nothing to index: no document has any text", remedy="add documents")
        passages = PassageStore(draft / _PASSAGES)
        rows = vectors(_texts(passages)) if callable(vectors) else vectors
        if factory == DEFAULT_FACTORY:
            factory = choose_factory(*rows.shape)
        built, calibration = VectorIndex.build(rows, factory, progress)
        built.save(draft / _VECTORS)
        manifest = Manifest(
            embedder=embedder.name,
            dimension=rows.shape[1],
            factory=factory,
            passages=len(passages),
            documents=passages.documents,
            fingerprint=fingerprint(embedder),
            recall_at_10=calibration.recall_at_10,
            search_effort=calibration.effort,
        )
        LexicalIndex.build(_texts(passages), passages.languages).save(draft / _LEXICAL)
        write_manifest(draft, manifest, _FILES)
    return manifest


def _texts(passages: PassageStore) -> Iterator[str]:
    return (indexed_text(passages[row]) for row in range(len(passages)))


class Index:
    """A loaded index. Thread-safe; its files stay mapped until it is garbage-collected."""

    def __init__(self, manifest: Manifest, passages: PassageStore, vectors: VectorIndex, terms: LexicalIndex) -> None:
        self.manifest = manifest
        self._passages = passages
        self._vectors = vectors
        self._lexical = terms
        self.is_english: NDArray[np.bool_] = np.array([language == "en" for language in passages.languages])

    @classmethod
    def load(cls, directory: Path, embedder: Embedder) -> Index:
        """Verify and map the index in `directory`, for queries embedded by `embedder`.

        Raises IndexRefused, naming the file or the two values and the remedy, when a file is missing, changed or of
        another format, or when the index was built by another embedder or in another dimension. The embedder is
        identified by name and fingerprint; for an index without a fingerprint, from before they existed, only the name
        is checked, with a warning.
        """
        manifest = read_manifest(directory, _FILES)
        if manifest.embedder != embedder.name:
            raise _mismatch(directory, "embedder", manifest.embedder, embedder.name)
        if manifest.dimension != embedder.dimension:
            raise _mismatch(directory, "dimension", manifest.dimension, embedder.dimension)
        _check_fingerprint(directory, manifest, embedder)
        passages = PassageStore(directory / _PASSAGES)
        vectors = VectorIndex.load(directory / _VECTORS)
        terms = LexicalIndex.load(directory / _LEXICAL, passages.languages)
        stored = (len(passages), len(vectors), vectors.dimension)
        if stored != (manifest.passages, manifest.passages, manifest.dimension):
            raise IndexRefused(
                f"{directory} holds {stored[0]} passages and {stored[1]} vectors of {stored[2]}; its manifest says "
                f"{manifest.passages} of {manifest.dimension}",
                value=str(directory),
                remedy=REBUILD,
            )
        return cls(manifest, passages, vectors, terms)

    def __len__(self) -> int:
        return len(self._passages)

    def matching(self, filters: Filters | None) -> Rows | None:
        """The rows that match `filters`; None for all rows. Raises InvalidRequest for an unknown field."""
        return self._passages.matching(filters) if filters else None

    def nearest(self, query: NDArray[np.float32], count: int, allowed: Rows | None = None) -> Rows:
        """The rows of the `count` passages nearest to the unit vector `query` among `allowed`."""
        return self._vectors.nearest(query, count, allowed)

    def cosines(self, query: NDArray[np.float32], rows: Rows) -> NDArray[np.float32]:
        """(len(rows),): the cosine of `query` with each passage."""
        return self._vectors.cosines(query, rows)

    def lexical_scores(self, question: str) -> NDArray[np.float32]:
        """(passages,): the normalised BM25 score of each passage, in [0, 1)."""
        return self._lexical.scores(question)

    def chunk(self, row: int) -> Chunk:
        """The chunk with the number `row`."""
        return self._passages[row]


def _check_fingerprint(directory: Path, manifest: Manifest, embedder: Embedder) -> None:
    if manifest.fingerprint is None:
        _log.warning("the index in %s has no fingerprint of its embedding model: only its name was checked", directory)
    elif not same_model(manifest.fingerprint, fingerprint(embedder)):
        raise IndexRefused(
            f"the index in {directory} was built by another model named {embedder.name!r}, or with another "
            "passage prefix: this server's model gives another vector for a fixed text",
            field="embedder",
            value=embedder.name,
            remedy=f"{REBUILD}, or set the embedding model and the passage prefix that built it",
        )


def _mismatch(directory: Path, name: str, indexed: object, loaded: object) -> IndexRefused:
    return IndexRefused(
        f"the index in {directory} was built with {name} {indexed!r}, but this server's is {loaded!r}",
        field=name,
        value=str(loaded),
        limit=str(indexed),
        remedy=f"{REBUILD}, or set the embedding model that built it",
    )
