"""Bytes of a vector index, from a FAISS factory string: what one vector takes and what the index holds besides."""

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
        """Bytes of the index with so many vectors."""
        return -int(-self.bytes_per_vector * vectors // 1) + self.fixed_bytes


def index_size(factory: str, dimensions: int) -> IndexSize:
    """The size of the index that `factory` makes for vectors of `dimensions`; InvalidInput for a part not known.

    Flat 4·d; SQ8 d, SQ6 ⌈6d/8⌉, SQ4 d/2, SQfp16 2·d; PQm(xb) ⌈m·b/8⌉; IVFn adds an 8-byte id and n·d·4 of
    centroids; HNSWm adds the links.
    """
    if dimensions < 1:
        raise InvalidInput("dimensions", f"{dimensions} is below 1")
    tally = _Tally(dimensions, dimensions)
    for part in factory.split(","):
        name = part.strip()
        for pattern, add in _PARTS:
            if match := re.fullmatch(pattern, name):
                add(tally, *(int(group) if group else 0 for group in match.groups()))
                break
        else:
            raise InvalidInput("index", f"{name!r} in {factory!r} is no FAISS factory part known here")
    if not tally.coded:
        _flat(tally)  # HNSW32 alone stores flat vectors
    return IndexSize(tally.each, tally.fixed)


@dataclass(slots=True)
class _Tally:
    """Bytes a vector and fixed bytes so far; `width` is that of the vectors at this point of the chain."""

    dimensions: int
    width: int
    each: float = 0.0
    fixed: int = 0
    coded: bool = False


def _rotation(tally: _Tally, target: int = 0) -> None:
    target = target or tally.width
    tally.fixed += tally.width * target * 4
    tally.width = target


def _inverted_lists(tally: _Tally, lists: int) -> None:
    tally.each += _ID_BYTES
    tally.fixed += lists * tally.width * 4


def _graph(tally: _Tally, links: int) -> None:
    # Level 0 keeps 2·m neighbours, each level above m, and a vector reaches 1/(m−1) levels above on average; a level
    # (4 bytes) and an offset (8) are kept for each.
    tally.each += _LINK_BYTES * (2 * links + links / max(1, links - 1)) + 4 + 8


def _ids(tally: _Tally) -> None:
    tally.each += _ID_BYTES


def _scalar(tally: _Tally, bits: int) -> None:
    tally.each += -(-tally.width * bits // 8)
    tally.fixed += 8 * tally.width
    tally.coded = True


def _half(tally: _Tally) -> None:
    _scalar(tally, 16)


def _product(tally: _Tally, pieces: int, bits: int) -> None:
    bits = bits or 8
    tally.each += -(-pieces * bits // 8)
    tally.fixed += 2**bits * tally.width * 4
    tally.coded = True


def _flat(tally: _Tally) -> None:
    tally.each += 4 * tally.width
    tally.coded = True


def _refine(tally: _Tally) -> None:
    tally.each += 4 * tally.dimensions


def _nothing(tally: _Tally) -> None:
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
