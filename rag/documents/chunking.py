"""Splits documents into chunks that fit the embedder: counted in its own tokens, at sentence ends, with overlap.

Every chunk carries the document's title, so that a chunk from the middle keeps its topic. Chunks that are equal up to
case, accents, punctuation and spacing are dropped.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from rag.documents.folder import Document
from rag.retrieval.passage_store import Chunk, duplicate_key

TokenSpans = Callable[[str], list[tuple[int, int]]]
"""(start, end) in characters of each token of a text, by the embedder's tokenizer."""

# After the end of a sentence or line. An abbreviation mistaken for an end is harmless: these are only possible splits.
# A blank line ends a paragraph, the better split.
_SENTENCE_END = re.compile(r"(?<=[.!?…;:])[\"'”»)\]]*\s+|\n\s*")
_WORD_END = re.compile(r"\s+")


@dataclass(slots=True)
class Chunker:
    """Splits documents; `duplicates` counts the repeated chunks dropped so far.

    `max_tokens` counts title and text together, without special tokens; it must not exceed the embedder's limit.
    """

    token_spans: TokenSpans
    max_tokens: int = 192
    overlap_tokens: int = 48
    duplicates: int = 0
    _seen: set[bytes] = field(default_factory=set, repr=False)

    def __post_init__(self) -> None:
        self.overlap_tokens = min(self.overlap_tokens, self.max_tokens // 4)

    def __call__(self, documents: Iterable[Document]) -> Iterator[Chunk]:
        """The chunks of `documents`, in order, without duplicates."""
        for document in documents:
            title_tokens = len(self.token_spans(document.title + "\n"))
            budget_tokens = max(self.max_tokens - title_tokens, self.max_tokens // 2)
            for number, text in enumerate(self._split(document.text, budget_tokens), start=1):
                key = duplicate_key(document.title, text)
                if key in self._seen:
                    self.duplicates += 1
                    continue
                self._seen.add(key)
                yield Chunk(f"{document.id}#{number}", document.id, document.title, text, document.metadata)

    def _split(self, text: str, max_tokens: int) -> Iterator[str]:
        starts = [start for start, _ in self.token_spans(text)]

        def tokens(start: int, end: int) -> int:
            return bisect_left(starts, end) - bisect_left(starts, start)

        pieces = list(_pieces(text, starts, max_tokens))
        first = fresh = 0  # the chunk's first piece, and its first piece that is in no earlier chunk
        while first < len(pieces):
            last = first
            while last + 1 < len(pieces) and tokens(pieces[first][0], pieces[last + 1][1]) <= max_tokens:
                last += 1
            if last + 1 < len(pieces):
                last = _at_paragraph_end(text, pieces, first, fresh, last)
            yield text[pieces[first][0] : pieces[last][1]].strip()
            first = fresh = last + 1
            # Go back by what fits the overlap, as long as the next new piece fits the chunk as well.
            while (
                first > 0
                and fresh < len(pieces)
                and tokens(pieces[first - 1][0], pieces[last][1]) <= self.overlap_tokens
                and tokens(pieces[first - 1][0], pieces[fresh][1]) <= max_tokens
            ):
                first -= 1


def _pieces(text: str, starts: list[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    """Consecutive spans of at most `max_tokens`: sentences; the words of a longer sentence.

    A run of characters without a space that is longer than a chunk is split between tokens.
    """
    for start, end in _spans(_SENTENCE_END, text, 0, len(text)):
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        if last - first <= max_tokens:
            yield start, end
            continue
        for word_start, word_end in _spans(_WORD_END, text, start, end):
            first, last = bisect_left(starts, word_start), bisect_left(starts, word_end)
            cuts = [word_start, *starts[first + max_tokens : last : max_tokens], word_end]
            yield from pairwise(cuts)


def _spans(boundary: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """[start, end) split after each boundary."""
    for match in boundary.finditer(text, start, end):
        if match.end() < end:
            yield start, match.end()
            start = match.end()
    yield start, end


def _at_paragraph_end(text: str, pieces: list[tuple[int, int]], first: int, fresh: int, last: int) -> int:
    """The last piece from `fresh` to `last` that ends a paragraph with at least half of the chunk, else `last`."""
    start, end = pieces[first][0], pieces[last][1]
    for piece in range(last, fresh - 1, -1):
        piece_end = pieces[piece][1]
        if piece_end - start < (end - start) // 2:
            break
        if re.search(r"\n\s*\n\s*$", text[pieces[piece][0] : piece_end]):
            return piece
    return last
