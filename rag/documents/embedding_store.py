"""An on-disk cache of text embeddings, keyed by the hash of the text.

Embedding takes nearly all of the time of a build. A build appends its vectors here as it goes, so a killed build
resumes where it was, and one over changed documents embeds only the new passages. A store is a directory:

    store.json              the embedder: name, dimension, fingerprint
    shard-00000.vectors     float32 rows, little-endian
    shard-00000.keys        the journal: 16 bytes per row, written after the row itself is on disk

Every process that appends starts a new shard, so nothing is ever appended after a partially written row, and such a row
is not read. Vectors are read block by block and never all held in memory.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.embedding.fingerprint import fingerprint, same_model
from rag.errors import InvalidRequest, ModelRefused
from rag.interfaces import Embedder, Vectors

Keys: TypeAlias = NDArray[np.bytes_]
"""(texts,) of dtype S16: the BLAKE2b digest of each text."""

KEY_BYTES = 16
# Texts that are looked up and sorted by length together, and texts that are written to disk together: a killed process
# loses at most APPEND_TEXTS embeddings, some seconds on a small machine.
WINDOW_TEXTS = 4096
APPEND_TEXTS = 256

_log = logging.getLogger(__name__)


def keys_of(texts: Iterable[str]) -> Keys:
    """The key of each text."""
    return np.array([blake2b(text.encode(), digest_size=KEY_BYTES).digest() for text in texts], dtype=f"S{KEY_BYTES}")


@dataclass(frozen=True, slots=True)
class _Shard:
    """The complete rows of one pair of files, numbered from `first_row` on."""

    stem: Path
    first_row: int
    rows: int

    def keys(self) -> Keys:
        found = np.fromfile(self.stem.with_suffix(".keys"), dtype=f"S{KEY_BYTES}", count=self.rows)
        return np.asarray(found, dtype=f"S{KEY_BYTES}")

    def gather(self, rows: NDArray[np.int64], dimension: int) -> Vectors:
        # Mapped for this call only: pages that stay mapped count as this process's memory.
        shape = (self.rows, dimension)
        mapped = np.memmap(self.stem.with_suffix(".vectors"), dtype="<f4", mode="r", shape=shape)
        return np.asarray(mapped[rows - self.first_row], dtype=np.float32)


class StoredVectors:
    """Some of a store's vectors, in the order of the requested keys: (rows, dimension), read from disk when indexed."""

    def __init__(self, shards: Sequence[_Shard], rows: NDArray[np.int64], dimension: int) -> None:
        self._shards = list(shards)
        self._starts = np.array([shard.first_row for shard in shards], dtype=np.int64)
        self._rows = rows
        self._dimension = dimension

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, dimension)."""
        return len(self._rows), self._dimension

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, wanted: slice | NDArray[np.int64]) -> Vectors:
        """(wanted, dimension), read from disk."""
        rows = self._rows[wanted]
        found = np.empty((len(rows), self._dimension), dtype=np.float32)
        of_shard = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(of_shard).tolist():
            mine = of_shard == number
            found[mine] = self._shards[number].gather(rows[mine], self._dimension)
        return found


class EmbeddingStore:
    """The vectors that `embedder` computed. A file lock admits one process at a time."""

    def __init__(self, directory: Path, embedder: Embedder) -> None:
        """Open the store in `directory`, or create it. Vectors of another model, of any name, are discarded.

        Raises InvalidRequest when another process has it open.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._dimension = embedder.dimension
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InvalidRequest(
                f"another build has the embedding store {directory} open",
                field="embeddings",
                value=str(directory),
                remedy="wait for it to end, or name another directory",
            ) from None
        self._adopt(embedder)
        self._writer: tuple[Any, Any] | None = None
        self._shards: list[_Shard] = []
        self._sorted_keys: Keys = np.empty(0, dtype=f"S{KEY_BYTES}")
        self._rows_by_key: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._read()

    def __enter__(self) -> EmbeddingStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the lock. StoredVectors returned before stay readable."""
        self._end_shard()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """(len(keys),): the row of each key; -1 for those not on disk when the store was last read."""
        if not len(self._sorted_keys):
            return np.full(len(keys), -1, dtype=np.int64)
        place = np.searchsorted(self._sorted_keys, keys).clip(max=len(self._sorted_keys) - 1)
        return np.where(self._sorted_keys[place] == keys, self._rows_by_key[place], -1)

    def append(self, keys: Keys, vectors: Vectors) -> None:
        """Write one row per key and fsync it. Raises ModelRefused for components that are not finite."""
        if vectors.shape != (len(keys), self._dimension):
            raise ValueError(f"{len(keys)} keys with vectors of the shape {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise ModelRefused("the embedding model gave a vector that is not finite", remedy="use dtype float32")
        if self._writer is None:
            stem = self._directory / f"shard-{self._next_number():05d}"
            self._writer = (stem.with_suffix(".vectors").open("xb"), stem.with_suffix(".keys").open("xb"))
        for file, content in zip(self._writer, (vectors.astype("<f4"), keys), strict=True):
            file.write(np.ascontiguousarray(content).tobytes())
            file.flush()
            os.fsync(file.fileno())  # vectors first: a key on disk implies that its vector is on disk

    def vectors(self, keys: Keys) -> StoredVectors:
        """The vectors of `keys`, in their order. Raises KeyError when one is missing."""
        self._end_shard()
        self._read()
        rows = self.rows(keys)
        if (rows < 0).any():
            raise KeyError(f"{int((rows < 0).sum())} of {len(keys)} texts have not been embedded")
        return StoredVectors(self._shards, rows, self._dimension)

    def prune(self, keys: Keys) -> int:
        """Drop the rows not among `keys` once they are more than half of the store; the number of rows dropped."""
        self._end_shard()
        self._read()
        wanted = np.unique(keys)
        kept = wanted[self.rows(wanted) >= 0]
        total = sum(shard.rows for shard in self._shards)
        if 2 * len(kept) >= total:
            return 0
        old = [shard.stem for shard in self._shards]
        vectors = self.vectors(kept)
        for start in range(0, len(kept), WINDOW_TEXTS):
            self.append(kept[start : start + WINDOW_TEXTS], vectors[start : start + WINDOW_TEXTS])
        self._end_shard()
        _remove(old)
        self._read()
        return total - len(kept)

    def _adopt(self, embedder: Embedder) -> None:
        """Take over the store for this embedder, discarding vectors of another one."""
        path = self._directory / "store.json"
        mine = {"embedder": embedder.name, "dimension": embedder.dimension, "fingerprint": fingerprint(embedder)}
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            known = (stored["embedder"], stored["dimension"]) == (mine["embedder"], mine["dimension"])
            if known and same_model(str(stored["fingerprint"]), str(mine["fingerprint"])):
                return
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no store yet, or a truncated description: no shard can be trusted
        foreign = self._stems()
        if foreign:
            _log.warning("%s holds vectors of another embedding model; they are discarded", self._directory)
            _remove(foreign)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(mine, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.replace(path)

    def _stems(self) -> list[Path]:
        return sorted({path.with_suffix("") for path in self._directory.glob("shard-*.*")})

    def _next_number(self) -> int:
        stems = self._stems()
        return int(stems[-1].name.removeprefix("shard-")) + 1 if stems else 0

    def _read(self) -> None:
        """Find the rows on disk: those complete in both files of a shard."""
        self._shards = []
        first_row = 0
        for stem in self._stems():
            vectors, keys = (_size_bytes(stem.with_suffix(suffix)) for suffix in (".vectors", ".keys"))
            rows = min(vectors // (4 * self._dimension), keys // KEY_BYTES)
            if rows:
                self._shards.append(_Shard(stem, first_row, rows))
                first_row += rows
        parts = [shard.keys() for shard in self._shards]
        keys_by_row = np.concatenate(parts) if parts else np.empty(0, dtype=f"S{KEY_BYTES}")
        self._sorted_keys, self._rows_by_key = np.unique(keys_by_row, return_index=True)

    def _end_shard(self) -> None:
        for file in self._writer or ():
            file.close()
        self._writer = None


def embed_texts(
    texts: Iterable[str],
    embed: Callable[[list[str]], Vectors],
    store: EmbeddingStore,
    progress: Callable[[int], object] | None = None,
) -> Keys:
    """Compute by `embed` the vectors that `store` lacks; the texts' keys, in order.

    `progress` is called with counts of finished texts, cached ones included.
    """

    def by_batches(keys: Keys, missing: list[str]) -> Iterator[tuple[Keys, Vectors]]:
        for start in range(0, len(missing), APPEND_TEXTS):
            batch = slice(start, start + APPEND_TEXTS)
            yield keys[batch], embed(missing[batch])

    return add_missing(texts, by_batches, store, progress, WINDOW_TEXTS)


def add_missing(
    texts: Iterable[str],
    embed: Callable[[Keys, list[str]], Iterable[tuple[Keys, Vectors]]],
    store: EmbeddingStore,
    progress: Callable[[int], object] | None,
    window_texts: int,
) -> Keys:
    """Append to `store` the vectors of the texts that it lacks; the keys of all `texts`, in order.

    Holds `window_texts` texts at a time. `embed` gets the missing ones with their keys, longest first, so that texts of
    like length share a batch and little padding is computed; it yields vectors with their keys in any order.
    """
    report = progress or (lambda _: None)
    all_keys = [keys_of(())]
    source = iter(texts)
    while window := list(islice(source, window_texts)):
        keys = keys_of(window)
        all_keys.append(keys)
        missing = np.flatnonzero(store.rows(keys) < 0).tolist()
        report(len(window) - len(missing))
        missing.sort(key=lambda i: len(window[i]), reverse=True)
        if missing:
            for embedded, vectors in embed(keys[missing], [window[i] for i in missing]):
                store.append(embedded, vectors)
                report(len(embedded))
    return np.concatenate(all_keys)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _remove(stems: Iterable[Path]) -> None:
    for stem in stems:
        # The journal first: rows need both files, so an interrupted removal leaves nothing that would be read.
        stem.with_suffix(".keys").unlink(missing_ok=True)
        stem.with_suffix(".vectors").unlink(missing_ok=True)
