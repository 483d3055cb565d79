"""The shipped corpus and its evaluation questions, read with the standard library only.

Without the product's own readers, which have their own tests, an error in the texts and one in a reader can't mask each
other.
"""

import json
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "corpus"
QUESTIONS = ROOT / "benchmarks" / "questions.jsonl"
GLOSSARIES = {"glossario.jsonl": "pt", "glossary.jsonl": "en"}


@dataclass(frozen=True)
class CorpusDocument:
    """One document: `source` is its path under corpus/, with `#id` for a glossary entry."""

    source: str
    language: str
    title: str
    text: str


def _read_prose(path: Path) -> CorpusDocument:
    title, blank, text = path.read_text(encoding="utf-8").split("\n", 2)
    assert blank == "", f"{path}: the second line must be blank"
    if path.suffix == ".md":
        assert title.startswith("# "), f"{path}: the first line must be '# Title'"
        title = title.removeprefix("# ")
    return CorpusDocument(path.relative_to(CORPUS).as_posix(), path.parent.name, title.strip(), text.strip())


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _read_corpus() -> list[CorpusDocument]:
    documents = [_read_prose(path) for path in sorted(CORPUS.glob("*/*")) if path.suffix in {".md", ".txt"}]
    for name, language in GLOSSARIES.items():
        for entry in _read_jsonl(CORPUS / name):
            assert set(entry) == {"id", "title", "text", "topic"}
            documents.append(CorpusDocument(f"{name}#{entry['id']}", language, entry["title"], entry["text"]))
    return documents


DOCUMENTS = _read_corpus()
BY_SOURCE = {document.source: document for document in DOCUMENTS}
QUESTION_ROWS = _read_jsonl(QUESTIONS)
ANSWERABLE = [row for row in QUESTION_ROWS if row["answers"]]
UNANSWERABLE = [row for row in QUESTION_ROWS if not row["answers"]]


def _repeated(values: list[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def test_the_corpus_has_at_least_sixty_documents_about_half_in_each_language() -> None:
    per_language = Counter(document.language for document in DOCUMENTS)
    assert set(per_language) == {"pt", "en"}
    assert len(DOCUMENTS) >= 60
    assert min(per_language.values()) >= 0.4 * len(DOCUMENTS)


def test_every_file_of_the_corpus_was_read() -> None:
    files = {path.relative_to(CORPUS).as_posix() for path in CORPUS.rglob("*") if path.is_file()}
    assert files == {document.source.partition("#")[0] for document in DOCUMENTS}


def test_every_format_appears_in_both_languages() -> None:
    formats = {(document.language, Path(document.source.partition("#")[0]).suffix) for document in DOCUMENTS}
    assert formats == {(language, suffix) for language in ("pt", "en") for suffix in (".md", ".txt", ".jsonl")}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.source)
def test_a_document_is_short_and_cleanly_formatted(document: CorpusDocument) -> None:
    assert 50 <= len(document.text.split()) <= 130
    assert document.title
    assert document.text[-1] == "."
    assert re.fullmatch(r"[a-z0-9./#-]+", document.source), "file names and ids are lower-case ASCII with hyphens"
    for written in (document.title, document.text):
        assert unicodedata.is_normalized("NFC", written), "a decomposed accent would not match a composed one"
        assert not re.search(r"[\ufffd\u00a0\t\r]| {2}", written)


def test_no_two_documents_share_a_source_a_title_or_a_text() -> None:
    assert _repeated([document.source for document in DOCUMENTS]) == []
    assert _repeated([document.title.casefold() for document in DOCUMENTS]) == []
    assert _repeated([" ".join(document.text.casefold().split()) for document in DOCUMENTS]) == []


def test_no_sentence_occurs_twice() -> None:
    sentences = [s for document in DOCUMENTS for s in re.split(r"(?<=[.!?])\s+", document.text) if len(s.split()) > 4]
    assert _repeated(sentences) == []


def test_there_are_32_answerable_questions_per_language_and_8_unanswerable_ones() -> None:
    assert Counter(row["language"] for row in ANSWERABLE) == {"pt": 32, "en": 32}
    assert Counter(row["language"] for row in UNANSWERABLE) == {"pt": 4, "en": 4}
    assert all(row["source"] is None for row in UNANSWERABLE)
    assert _repeated([row["question"].casefold() for row in QUESTION_ROWS]) == []


@pytest.mark.parametrize("row", ANSWERABLE, ids=lambda row: row["question"])
def test_every_reference_answer_occurs_as_whole_words_in_its_document(row: dict[str, Any]) -> None:
    document = BY_SOURCE[row["source"]]
    assert row["language"] == document.language
    assert 1 <= len(row["answers"]) <= 4
    for answer in row["answers"]:
        assert len(answer.split()) <= 8, "an answer is a short span, not a sentence"
        assert re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", document.text), f"{answer!r} is not in {row['source']}"


@pytest.mark.parametrize("row", ANSWERABLE, ids=lambda row: row["question"])
def test_a_question_does_not_contain_its_answer(row: dict[str, Any]) -> None:
    asked = row["question"].casefold()
    assert [answer for answer in row["answers"] if answer.casefold() in asked] == []


def test_the_capital_of_brazil_can_be_asked_in_both_languages() -> None:
    capital = {row["question"]: row["answers"] for row in ANSWERABLE}
    assert "Brasília" in capital["Qual a capital do Brasil?"]
    assert "Brasília" in capital["What is the capital of Brazil?"]
