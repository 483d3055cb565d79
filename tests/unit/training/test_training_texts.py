"""The training questions: their answers are literal, and none of them is close to an evaluation question."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest

from rag.retrieval.lexical_index import fold
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.lexicon import words
from training.exercises.prose import ProseDocument, nearest, read_corpus
from training.exercises.text_questions import FIRST_ASKED, TextQuestions, renamed, reworded
from training.exercises.texts import (
    QUESTIONS,
    READING,
    hold_out_questions,
    hold_out_texts,
    read_questions,
    read_squad_questions,
)

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# Function and question words, which don't count for similarity.
_ASKING = words(
    "o a os as um uma de do da dos das em no na nos nas por para com que se ao e ou qual quais quem quando onde quanto "
    "quantos quantas como foi sao the an of in on by for with that to at is are was were what which who when where how "
    "many much do does did whose"
)


def test_every_answer_occurs_in_its_document() -> None:
    texts = {document.title: document.text for document in read_corpus(ROOT / "corpus")}
    asked = read_questions(QUESTIONS, ROOT / "corpus")
    assert set(FIRST_ASKED) <= set(asked) <= set(texts)
    assert sum(map(len, asked.values())) > 2500
    for title, questions in asked.items():
        for question in questions:
            assert question.answer
            assert question.answer in texts[title], question


def _content(question: str) -> frozenset[str]:
    """The content words' first five letters: the same for "capital do Brasil" and "capital brasileira"."""
    return frozenset(word[:5] for word in re.findall(r"\w+", fold(question)) if word not in _ASKING)


def test_no_question_is_worded_similarly_to_an_evaluation_question() -> None:
    lines = (ROOT / "benchmarks" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    evaluated = [_content(json.loads(line)["question"]) for line in lines]
    _, read = read_squad_questions(READING)
    near = [
        question.text
        for questions in [*read_questions(QUESTIONS, ROOT / "corpus").values(), *read.values()]
        for question in questions
        for content in [_content(question.text)]
        if any(len(content & other) >= 0.6 * len(content | other) for other in evaluated)
    ]
    assert not near


def test_the_reading_texts_have_answerable_and_some_unanswerable_questions() -> None:
    documents, asked = read_squad_questions(READING)
    assert len(documents) > 1000
    assert {document.language for document in documents} == {"pt", "en"}
    texts = {document.title: document.text for document in documents}
    questions = [(title, question) for title, questions in asked.items() for question in questions]
    assert len(questions) > 10_000
    assert all(question.answer in texts[title] for title, question in questions if question.answer)
    assert 0.05 < sum(question.answer is None for _, question in questions) / len(questions) < 0.25


def test_one_text_in_thirty_is_held_out_with_all_its_questions() -> None:
    documents, asked = read_squad_questions(READING)
    (trained, trained_asked), (held_out, held_out_asked) = hold_out_texts((documents, asked))
    assert 0.02 < len(held_out) / len(documents) < 0.05
    assert len(trained) + len(held_out) == len(documents)
    assert trained_asked | held_out_asked == asked
    assert set(held_out_asked) <= {document.title for document in held_out}
    assert set(trained_asked) <= {document.title for document in trained}


def test_a_squad_file_gives_exercises_like_the_corpus(tmp_path: Path) -> None:
    first, second = "Roma foi fundada por Rômulo. Fica na Itália.", "O rio de Roma é o Tibre."
    asked = [
        {"question": "Quem fundou Roma?", "answers": [{"text": "rei Rômulo"}, {"text": "Rômulo"}]},
        {"question": "Quem fundou Londres?", "answers": [], "is_impossible": True},
    ]
    river = [{"question": "Qual é o rio de Roma?", "answers": [{"text": "Tibre"}]}]
    paragraphs = [{"context": first, "qas": asked}, {"context": second, "qas": river}]
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"title": "Roma_antiga", "paragraphs": paragraphs}]}), encoding="utf-8")
    documents, questions = read_squad_questions(path)
    assert [(document.title, len(document.sentences)) for document in documents] == [
        ("Roma antiga", 2),
        ("Roma antiga, 2", 1),
    ]
    assert [(title, [q.answer for q in found]) for title, found in questions.items()] == [
        ("Roma antiga", ["Rômulo", None]),
        ("Roma antiga, 2", ["Tibre"]),
    ]
    drawn = TextQuestions(documents, questions, nearest(documents, 2))
    exercise = drawn.exercise(Random(1), passages=2, whole=True)
    together = "\n".join(shown.text for shown in exercise.passages)
    assert all(question.answer in together for question in exercise.questions if question.answer)


def test_one_question_in_thirty_is_held_out() -> None:
    asked = read_questions(QUESTIONS, ROOT / "corpus")
    trained, held_out = hold_out_questions(asked)
    assert 0.02 < sum(map(len, held_out.values())) / sum(map(len, asked.values())) < 0.05
    for title, questions in asked.items():
        assert sorted(trained.get(title, []) + held_out.get(title, []), key=str) == sorted(questions, key=str)


@pytest.mark.parametrize("whole", [True, False])
def test_an_exercise_has_questions_in_one_language_answered_by_its_passages(whole: bool) -> None:
    documents = read_corpus(ROOT / "corpus")
    drawn = TextQuestions(documents, read_questions(QUESTIONS, ROOT / "corpus"), nearest(documents, 3))
    rng = Random(4)
    exercises = [drawn.exercise(rng, passages=1 + i % 3, whole=whole) for i in range(60)]
    asked = [question for exercise in exercises for question in exercise.questions]
    assert 0.05 < sum(question.answer is None for question in asked) / len(asked) < 0.5
    for exercise in exercises:
        assert len({question.language for question in exercise.questions}) == 1
        together = "\n".join(shown.text for shown in exercise.passages)
        assert all(question.answer in together for question in exercise.questions if question.answer)


def test_an_excerpt_answers_a_question_and_has_unanswerable_ones_about_the_rest() -> None:
    sentences = tuple(f"A torre {number} tem {number * 11} metros." for number in range(1, 9))
    tower = ProseDocument("Torres", " ".join(sentences), sentences, "pt")
    asked = [Question(f"Quantos metros tem a torre {number}?", f"{number * 11} metros", "pt") for number in range(1, 9)]
    drawn = TextQuestions([tower], {"Torres": asked}, {"Torres": []})
    exercises = [drawn.exercise(Random(seed), passages=1, whole=False) for seed in range(60)]
    assert all(exercise.passages[0].text.count("torre") <= 3 for exercise in exercises)
    assert all(any(question.answer for question in exercise.questions) for exercise in exercises)
    refused = sum(any(question.answer is None for question in exercise.questions) for exercise in exercises)
    assert 15 <= refused <= 45, "about half have a question for a tower that isn't shown"


def test_renaming_replaces_names_and_numbers_consistently_in_passages_questions_and_answers() -> None:
    text = "Brasília foi inaugurada em 1960 por Juscelino Kubitschek. Em 1960 Brasília era nova."
    questions = (
        Question("Quem inaugurou Brasília?", "Juscelino Kubitschek", "pt"),
        Question("Que cidade abriu em 1960?", "Brasília", "pt"),
        Question("Em que ano Brasília foi inaugurada?", "1960", "pt"),
        Question("Como era?", "nova", "pt"),
        Question("Quem foi Pelé?", None, "pt"),
    )
    everything = {"Brasília", "1960", "Juscelino Kubitschek"}
    replaced = 0
    for seed in range(30):
        exercise = renamed(Random(seed), Exercise((passage("Brasília", text),), questions))
        shown = exercise.passages[0]
        replaced += sum(name not in shown.text for name in everything)
        assert ("Brasília" in shown.text) == ("Brasília" in shown.title)
        assert len(exercise.questions) == len(questions)
        assert all(question.answer in shown.text for question in exercise.questions if question.answer)
        city, year = exercise.questions[1].answer, exercise.questions[2].answer
        assert f"{year} {city} era nova" in shown.text
        assert str(city) in exercise.questions[2].text
        assert exercise.questions[1].text == f"Que cidade abriu em {year}?"
    assert replaced > 30


def test_rewording_drops_at_most_one_word() -> None:
    text = "Em que ano a cidade de Brasília foi inaugurada?"
    for seed in range(200):
        kept = reworded(Random(seed), text).rstrip("?").lower().split()
        expected = text.rstrip("?").lower().split()
        assert len(expected) - len(kept) in (0, 1)
        assert [word for word in expected if word in kept] == kept
