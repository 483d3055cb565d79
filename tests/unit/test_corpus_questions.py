"""The questions that the default model is tuned on: answered literally, and none of them the evaluation's."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from training.corpus_questions import FIRST_ASKED, QUESTIONS, read_questions, reworded
from training.prose import read_corpus

ROOT = Path(__file__).parents[2]


def test_every_answer_stands_in_the_document_that_is_asked_about() -> None:
    texts = {document.title: document.text for document in read_corpus(ROOT / "corpus")}
    asked = read_questions(QUESTIONS, ROOT / "corpus")
    assert set(FIRST_ASKED) <= set(asked) <= set(texts)
    assert sum(map(len, asked.values())) > 2500
    for title, questions in asked.items():
        for question in questions:
            assert question.answer
            assert question.answer in texts[title], question


def test_none_is_worded_as_a_question_of_the_evaluation() -> None:
    lines = (ROOT / "benchmarks" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = {json.loads(line)["question"].casefold() for line in lines}
    asked = read_questions(QUESTIONS, ROOT / "corpus")
    assert not {question.text.casefold() for questions in asked.values() for question in questions} & evaluated


def test_rewording_keeps_all_words_but_at_most_one() -> None:
    text = "Em que ano a cidade de Brasília foi inaugurada?"
    for seed in range(200):
        words = reworded(Random(seed), text).rstrip("?").lower().split()
        expected = text.rstrip("?").lower().split()
        assert len(expected) - len(words) in (0, 1)
        assert [word for word in expected if word in words] == words
