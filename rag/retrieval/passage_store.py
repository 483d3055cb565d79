"""The passages of an index: a memory-mapped JSON Lines file, each line parsed on access.

Only each line's offset and, for the filters, the rows of each metadata value are kept in memory.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import IndexRefused, InvalidRequest
from rag.interfaces import Language, Scalar
from rag.retrieval.lexical_index import fold

Filters: TypeAlias = Mapping[str, Scalar | Sequence[Scalar]]
Rows: TypeAlias = NDArray[np.int64]
"""Numbers of passages in the index, ascending."""

# A text of fewer words is a duplicate only if its title is equal as well.
_FEW_WORDS = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document, as indexed. `document` is the document's id; `id` adds the chunk's number to it."""

    id: str
    document: str
    title: str
    text: str
    metadata: dict[str, Scalar]


def duplicate_key(title: str, text: str) -> bytes:
    """Equal for texts that differ only in case, accents, punctuation and spacing.

    A text of a few words ("Yes, within 30 days.") has no meaning without its title, so the title is part of its key.
    """
    words = re.findall(r"\w+", fold(text))
    if len(words) < _FEW_WORDS:
        words = [fold(title), "\n", *words]
    return blake2b(" ".join(words).encode(), digest_size=16).digest()


def write_passages(path: Path, chunks: Iterable[Chunk]) -> int:
    """Write each chunk as a line of JSON; the number of chunks."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for chunk in chunks:
            file.write(json.dumps(asdict(chunk), ensure_ascii=False) + "\n")
            count += 1
    return count


class PassageStore:
    """Chunks by row, and rows by metadata. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Map a file written by `write_passages`. Raises IndexRefused for any other file."""
        self._path = path
        self.languages: list[Language] = []
        try:
            with path.open("rb") as file:
                self._lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offsets = [0]
            rows: dict[str, dict[tuple[bool, Scalar], list[int]]] = {}
            documents = set()
            for row, line in enumerate(iter(self._lines.readline, b"")):
                offsets.append(offsets[-1] + len(line))
                chunk = Chunk(**json.loads(line))
                documents.add(chunk.document)
                self.languages.append("en" if chunk.metadata["language"] == "en" else "pt")
                for name, value in chunk.metadata.items():
                    rows.setdefault(name, {}).setdefault(_key(value), []).append(row)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IndexRefused(f"{path} holds no passages: {error}", value=str(path)) from error
        self._offsets = np.array(offsets, dtype=np.int64)
        self._rows = {
            name: {key: np.array(found, dtype=np.int64) for key, found in values.items()}
            for name, values in rows.items()
        }
        self.documents = len(documents)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Chunk:
        """The chunk with the number `row`."""
        return Chunk(**json.loads(self._lines[self._offsets[row] : self._offsets[row + 1]]))

    @property
    def fields(self) -> list[str]:
        """The names of all metadata fields, sorted."""
        return sorted(self._rows)

    def matching(self, filters: Filters) -> Rows:
        """The passages whose metadata match every field of `filters`: its value, or one of its values.

        Raises InvalidRequest for a field that no passage has, and for a value that is not a scalar.
        """
        found: Rows | None = None
        for name, wanted in filters.items():
            if name not in self._rows:
                raise InvalidRequest(
                    f"no passage has the metadata field {name!r}",
                    field=f"filters.{name}",
                    remedy=f"filter by one of: {', '.join(self.fields)}",
                )
            rows = [self._rows[name].get(_key(value), _NONE) for value in _scalars(name, wanted)]
            with_field = np.unique(np.concatenate(rows)) if rows else _NONE
            found = with_field if found is None else np.intersect1d(found, with_field, assume_unique=True)
        return np.arange(len(self), dtype=np.int64) if found is None else found


_NONE: Rows = np.empty(0, dtype=np.int64)


def _key(value: Scalar) -> tuple[bool, Scalar]:
    return isinstance(value, bool), value  # True == 1 in Python; a filter distinguishes them, as JSON does


def _scalars(name: str, wanted: Any) -> list[Scalar]:
    values = wanted if isinstance(wanted, list | tuple) else [wanted]
    for value in values:
        if not isinstance(value, str | int | float | bool):
            raise InvalidRequest(
                f"the filter {name!r} must be a string, a number, true or false, or a list of them",
                field=f"filters.{name}",
                value=value,
            )
    return list(values)
