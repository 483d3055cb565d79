"""Files in SQuAD's format give documents and questions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag.documents.squad import read_squad


def squad_file(path: Path) -> Path:
    capital = "Brasília é a capital do Brasil desde 1960."
    questions = [
        {"question": "Qual é a capital do Brasil?", "answers": [{"text": "Brasília"}, {"text": "Brasília"}]},
        {"question": "Quem fundou Roma?", "answers": [], "is_impossible": True},
    ]
    again = [{"question": "Desde quando é Brasília a capital?", "answers": [{"text": "1960"}]}]
    articles = [
        {"title": "Brasil", "paragraphs": [{"context": capital, "qas": questions}, {"context": "Outro.", "qas": []}]},
        {"title": "Capitais", "paragraphs": [{"context": capital, "qas": again}]},
    ]
    path.write_text(json.dumps({"data": articles}), encoding="utf-8")
    return path


def test_a_file_in_squad_s_format_gives_documents_and_questions(tmp_path: Path) -> None:
    documents, questions = read_squad(squad_file(tmp_path / "squad.json"))
    assert [document.id for document in documents] == ["paragraph 0", "paragraph 1"]
    assert [(question.answers, question.document, question.article) for question in questions] == [
        (("Brasília",), "paragraph 0", "0"),
        ((), "paragraph 0", "0"),
        (("1960",), "paragraph 0", "1"),
    ]


@pytest.mark.parametrize("text", ["", "[]", '{"data": [{}]}', '{"data": [{"paragraphs": [{"context": "x"}]}]}'])
def test_another_format_is_refused_with_the_file_s_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"other\.json is not in SQuAD's format"):
        read_squad(path)
