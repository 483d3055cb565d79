"""Bytes of a vector index, from a FAISS factory string: bytes of a vector, and fixed bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from capacity.errors import InvalidInput

_ID_BYTES = 8  # an inverted list keeps a 64-bit id beside each code
_LINK_BYTES = 4  # HNSW neighbours are 32-bit


@dataclass(frozen=True, slots=True)
class IndexSize:
    """`bytes_per_vector` × vectors + `fixed_bytes` (centroids, codebooks, rotations)."""

    bytes_per_vector: float
    fixed_bytes: int

    def total_bytes(self, vectors: int) -> int:
        """Bytes of the index with that many vectors."""
        return -int(-self.bytes_per_vector * vectors // 1) + self.fixed_bytes


def index_size(factory: str, dimensions: int) -> IndexSize:
    """The size of the index that `factory` makes for vectors of `dimensions`; InvalidInput for a part not known.

    Flat 4·d; SQ8 d, SQ6 ⌈6d/8⌉, SQ4 d/2, SQfp16 2·d; PQm(xb) ⌈m·b/8⌉; IVFn adds an 8-byte id and n·d·4 of
    centroids; HNSWm adds the links.
    """
    if dimensions < 1:
        raise InvalidInput("dimensions", f"{dimensions} is below 1")
    size = _IndexBytes(dimensions, dimensions)
    for part in factory.split(","):
        name = part.strip()
        for pattern, add in _PARTS:
            if match := re.fullmatch(pattern, name):
                add(size, *(int(group) if group else 0 for group in match.groups()))
                break
        else:
            raise InvalidInput("index", f"{name!r} in {factory!r} is not a supported FAISS factory part")
    if not size.coded:
        _flat(size)  # HNSW32 alone stores flat vectors
    return IndexSize(size.each, size.fixed)


@dataclass(slots=True)
class _IndexBytes:
    """Bytes a vector and fixed bytes of the parts so far; `width` is that of the vectors at this point of the chain."""

    dimensions: int
    width: int
    each: float = 0.0
    fixed: int = 0
    coded: bool = False


def _rotation(size: _IndexBytes, target: int = 0) -> None:
    target = target or size.width
    size.fixed += size.width * target * 4
    size.width = target


def _inverted_lists(size: _IndexBytes, lists: int) -> None:
    size.each += _ID_BYTES
    size.fixed += lists * size.width * 4


def _graph(size: _IndexBytes, links: int) -> None:
    # Level 0 keeps 2·m neighbours, each level above m, and a vector reaches 1/(m−1) levels above on average; a level
    # (4 bytes) and an offset (8) are kept for each.
    size.each += _LINK_BYTES * (2 * links + links / max(1, links - 1)) + 4 + 8


def _ids(size: _IndexBytes) -> None:
    size.each += _ID_BYTES


def _scalar(size: _IndexBytes, bits: int) -> None:
    size.each += -(-size.width * bits // 8)
    size.fixed += 8 * size.width
    size.coded = True


def _half(size: _IndexBytes) -> None:
    _scalar(size, 16)


def _product(size: _IndexBytes, pieces: int, bits: int) -> None:
    bits = bits or 8
    size.each += -(-pieces * bits // 8)
    size.fixed += 2**bits * size.width * 4
    size.coded = True


def _flat(size: _IndexBytes) -> None:
    size.each += 4 * size.width
    size.coded = True


def _refine(size: _IndexBytes) -> None:
    size.each += 4 * size.dimensions


def _nothing(size: _IndexBytes) -> None:
    """A transformation that stores nothing."""


_PARTS: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"(?:PCAR?|OPQ\d+_|ITQ|RR)(\d+)", _rotation),
    (r"OPQ\d+", _rotation),
    (r"IVF(\d+)(?:_HNSW\d+)?", _inverted_lists),
    (r"HNSW(\d+)", _graph),
    (r"IDMap2?", _ids),
    (r"SQ(4|6|8)", _scalar),
    (r"SQ(?:fp|bf)16", _half),
    (r"PQ(\d+)(?:x(\d+))?(?:fs|fsr|np)?", _product),
    (r"Flat", _flat),
    (r"RFlat|Refine\(Flat\)", _refine),
    (r"L2norm", _nothing),
)
