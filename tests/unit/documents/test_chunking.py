"""Chunks end at sentences and paragraphs where possible, and no word is lost."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from rag.documents.chunking import Chunker
from rag.documents.folder import Document
from rag.retrieval.passage_store import Chunk, duplicate_key


def words(text: str) -> list[tuple[int, int]]:
    """A tokenizer with one token per word."""
    return [match.span() for match in re.finditer(r"\S+", text)]


def characters(text: str) -> list[tuple[int, int]]:
    return [(i, i + 1) for i in range(len(text))]


def document(text: str, title: str = "Title", name: str = "a.txt") -> Document:
    return Document(name, title, text, {"source": name})


def cut(text: str, max_tokens: int, overlap_tokens: int = 0) -> list[str]:
    chunker = Chunker(words, max_tokens + 1, overlap_tokens)  # the title takes a token
    return [chunk.text for chunk in chunker([document(text)])]


def test_a_short_text_is_one_chunk_with_its_title_and_metadata() -> None:
    chunks = list(Chunker(words, 20)([document("A short text.")]))
    assert chunks == [Chunk("a.txt#1", "a.txt", "Title", "A short text.", {"source": "a.txt"})]


def test_chunks_end_after_sentences() -> None:
    text = "One two three. Four five six seven. Eight nine. Ten eleven."
    assert cut(text, 7) == ["One two three. Four five six seven.", "Eight nine. Ten eleven."]


def test_a_paragraph_end_is_preferred_over_a_fuller_chunk() -> None:
    text = "One two three four five.\n\nSix seven. Eight nine ten eleven."
    assert cut(text, 8) == ["One two three four five.", "Six seven. Eight nine ten eleven."]


def test_chunks_overlap_by_whole_sentences_within_the_limit() -> None:
    text = "A b c. D e. F g h. I j. K l m."
    assert cut(text, 8, 2) == ["A b c. D e. F g h.", "I j. K l m."], "no sentence of two words ends the first chunk"
    assert cut("A b c. D e f. G h. I j k. L m n.", 8, 2) == ["A b c. D e f. G h.", "G h. I j k. L m n."]


def test_a_long_sentence_is_split_between_words() -> None:
    text = " ".join(f"word{i}" for i in range(25))
    pieces = cut(text, 10)
    assert " ".join(pieces) == text
    assert [len(piece.split()) for piece in pieces] == [10, 10, 5]


def test_a_long_run_without_spaces_is_split_between_tokens() -> None:
    assert list(Chunker(characters)._split("x" * 100, 40)) == ["x" * 40, "x" * 40, "x" * 20]


def test_the_title_takes_at_most_half_of_the_chunk() -> None:
    text = " ".join("word" for _ in range(100)) + "."
    long_title = " ".join("title" for _ in range(50))
    chunker = Chunker(words, 20, 0)
    assert [len(chunk.text.split()) for chunk in chunker([document(text, long_title)])][:2] == [10]
    assert chunker.duplicates == 9, "the other pieces are the same ten words"


def test_duplicates_are_dropped_and_counted() -> None:
    text = "The same sentence with more than a few words, written twice."
    chunker = Chunker(words, 30)
    chunks = list(chunker([document(text), document(text.upper().replace(",", " ;"), "Other", "b.txt")]))
    assert [chunk.id for chunk in chunks] == ["a.txt#1"]
    assert chunker.duplicates == 1


def test_short_texts_are_duplicates_only_under_the_same_title() -> None:
    assert duplicate_key("Returns?", "Yes, 30 days.") != duplicate_key("Exchanges?", "Yes, 30 days.")
    assert duplicate_key("Ação", "Sim.") == duplicate_key("acao", "SIM")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([" ", "  ", ". ", "! ", ", ", "\n", "\n\n", ".\n \n", '." ']), min_size=1, max_size=120),
    st.integers(4, 24),
    st.integers(0, 12),
)
def test_every_word_is_kept_whole_and_in_order_and_no_chunk_is_too_long(
    gaps: list[str], limit: int, overlap: int
) -> None:
    text = "".join(f"w{n}{gap}" for n, gap in enumerate(gaps)).strip()
    chunker = Chunker(words, limit, overlap)
    following = 0  # the number of the first word that is in no chunk yet
    for piece in chunker._split(text, limit):
        numbers = [int(number) for number in re.findall(r"w(\d+)", piece)]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] <= following <= numbers[-1], "a chunk continues the previous one and extends beyond it"
        assert following - numbers[0] <= chunker.overlap_tokens
        assert len(piece.split()) <= limit
        following = numbers[-1] + 1
    assert following == len(gaps)
