"""Questions written over the shipped corpus and over other texts, as exercises in the shape of serving.

`corpus_questions.jsonl` holds {question, answer, source, language} a line; the answer stands in the source word for
word. None of them is worded nearly as a question of benchmarks/questions.jsonl, which stays apart for the evaluation;
many of the facts are the same. `reading.json`, in SQuAD's format, has short texts of every kind, most of their names
and numbers invented, so that reading is learnt where nothing can be known.
"""

from __future__ import annotations

import json
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TypeAlias

from benchmarks.squad import read_squad
from rag.documents import read_folder
from rag.seams import Language
from training import lexicon
from training.exercise import Exercise, Question, passage
from training.facts import LANGUAGES
from training.prose import Document, nearest, split_sentences

# A newcomer's first questions go to these: they come up more often, and beside one another as the retriever has them.
FIRST_ASKED = ("Brazil: capital, people and borders", "Brasília, capital do Brasil", "Capitais de estados brasileiros")
QUESTIONS = Path(__file__).parent / "corpus_questions.jsonl"
READING = Path(__file__).parent / "reading.json"


Asked: TypeAlias = dict[str, list[Question]]
"""Questions by the title of the document that they are asked of; one without an answer is not answered there."""
Texts: TypeAlias = tuple[Sequence[Document], Asked]

# An answer that invented words can stand for: a name, or a number with no more than its unit.
_NAME = re.compile(r"[A-ZÀ-Ú][\w'-]+(?: (?:(?:de|da|do|dos|of|van) )?[A-ZÀ-Ú][\w'-]+)*")
_DIGITS = re.compile(r"\d+")


class CorpusQuestions:
    """Draws exercises over documents: whole ones as a retriever has them, or the sentences that answer."""

    def __init__(self, documents: Sequence[Document], asked: Asked, beside: Mapping[str, Sequence[Document]]) -> None:
        self._by_title = {document.title: document for document in documents}
        self._nearest = beside
        self._asked = asked
        self._all = sorted(asked)
        self._titles = {
            language: sorted(title for title in asked if self._by_title[title].language == language)
            for language in LANGUAGES
        }
        self._first = [title for title in FIRST_ASKED if title in asked]

    def exercise(self, rng: Random, *, passages: int, whole: bool) -> Exercise:
        """A document, mostly first as a retriever would have it, near ones beside it, and questions over the former.

        Unless `whole`, documents are cut to a few sentences and questions to what those answer.
        """
        first = bool(self._first) and rng.random() < 0.12
        title = rng.choice(self._first if first else self._all)
        language = self._by_title[title].language
        beside = self._beside(rng, title, passages - 1)
        if first and rng.random() < 0.6:
            beside = [self._by_title[other] for other in self._first if other != title][: passages - 1]
        elif beside and rng.random() < 0.1:
            foreign = [other for other in self._by_title.values() if other.language != language]
            beside[-1] = rng.choice(foreign or beside)
        shown = [self._by_title[title], *beside]
        if not whole:
            shown = [document.excerpt(rng.randrange(len(document.sentences)), 3) for document in shown]
        if rng.random() < 0.3:
            rng.shuffle(shown)
        titles = {document.title for document in shown}
        together = " ".join(document.text for document in shown)
        questions: list[Question] = []
        for document in shown:
            mine = self._asked.get(document.title, [])
            answered = [q for q in mine if q.language == language and q.answer and q.answer in document.text]
            questions += rng.sample(answered, min(6 if document.title == title else 1, len(answered)))
        gaps = [q for q in self._asked[title] if q.answer is None]
        if gaps and rng.random() < 0.5:
            questions.append(rng.choice(gaps))
        # And what another document tells, which these don't.
        others = [other for other in self._titles[language] if other not in titles]
        if others and (rng.random() < (0.3 if gaps else 0.8) or not questions):
            asked = self._asked[rng.choice(others)]
            told = [q for q in asked if q.language == language and q.answer and q.answer not in together]
            questions += [replace(question, answer=None) for question in told and [rng.choice(told)]]
        exercise = Exercise(
            tuple(passage(document.title, document.text) for document in shown),
            tuple(replace(question, text=reworded(rng, question.text)) for question in questions),
        )
        return renamed(rng, exercise) if rng.random() < 0.5 else exercise

    def _beside(self, rng: Random, title: str, count: int) -> list[Document]:
        return rng.sample(self._nearest[title], min(count, len(self._nearest[title])))


def renamed(rng: Random, exercise: Exercise) -> Exercise:
    """The exercise with most of its answers' names and numbers exchanged for invented ones, wherever they stand.

    What the documents say cannot be learnt by heart so: the answer has to be read.
    """
    others: dict[str, str] = {}
    for question in exercise.questions:
        if not question.answer or rng.random() < 0.2:
            continue
        if _NAME.fullmatch(question.answer):
            draw = lexicon.person if " " in question.answer else lexicon.city
            others.setdefault(question.answer, draw(rng, question.language).text)
        else:
            for digits in _DIGITS.findall(question.answer):
                first = str(rng.randint(1, 9))
                others.setdefault(digits, first + "".join(str(rng.randint(0, 9)) for _ in digits[1:]))
    if not others:
        return exercise
    longest_first = sorted(others, key=len, reverse=True)
    known = re.compile(r"(?<!\w)(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\w)")

    def exchange(text: str) -> str:
        return known.sub(lambda found: others[found.group()], text)

    shown = tuple(passage(exchange(old.title), exchange(old.text)) for old in exercise.passages)
    together = "\n".join(new.text for new in shown)
    asked = [
        replace(question, text=exchange(question.text), answer=question.answer and exchange(question.answer))
        for question in exercise.questions
    ]
    return Exercise(shown, tuple(question for question in asked if not question.answer or question.answer in together))


def reworded(rng: Random, text: str) -> str:
    """The question as it is, or as people type it: a word less, in lower case, or without its mark."""
    if rng.random() < 0.5:
        return text
    words = text.rstrip("?").split()
    if len(words) > 5 and rng.random() < 0.6:
        del words[rng.randrange(1, len(words))]
    changed = " ".join(words)
    if rng.random() < 0.3:
        changed = changed.lower()
    return changed if rng.random() < 0.3 else changed + "?"


def read_questions(path: Path, folder: Path) -> Asked:
    """Questions by the title of the document that answers them."""
    titles = {}
    for document in read_folder(folder).documents:
        titles[str(document.metadata["source"])] = document.title
        titles[f"{document.metadata['source']}#{document.id}"] = document.title
    asked: Asked = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("answers") == []:
            continue
        answer = row["answer"] if "answer" in row else row["answers"][0]
        asked.setdefault(titles[row["source"]], []).append(Question(row["question"], answer, row["language"]))
    return asked


def read_squad_questions(path: Path) -> tuple[list[Document], Asked]:
    """The same from a file in SQuAD's format, with its paragraphs. Those of one article are told apart by a number.

    Of several reference answers the first is taken that stands in the paragraph; without any it is left out.
    Raises ValueError for another format.
    """
    paragraphs, questions = read_squad(path)
    documents: dict[str, Document] = {}
    seen: Counter[str] = Counter()
    for paragraph in paragraphs:
        article = str(paragraph.metadata["article"])
        seen[article] += 1
        title = f"{article}, {seen[article]}" if seen[article] > 1 else article
        language: Language = "pt" if paragraph.metadata["language"] == "pt" else "en"
        text = paragraph.text.strip()
        documents[paragraph.id] = Document(title, text, split_sentences(text), language)
    asked: Asked = {}
    for question in questions:
        document = documents[question.document]
        answer = next((answer for answer in question.answers if answer in document.text), None)
        if answer is not None or not question.answers:
            asked.setdefault(document.title, []).append(Question(question.text, answer, document.language))
    return list(documents.values()), asked


def held_apart(asked: Asked) -> tuple[Asked, Asked]:
    """The questions to train on, and one in thirty apart: they follow the training, and don't take part in it."""
    trained: Asked = {}
    apart: Asked = {}
    for title, questions in asked.items():
        for question in questions:
            chosen = apart if zlib.crc32(question.text.encode()) % 30 == 0 else trained
            chosen.setdefault(title, []).append(question)
    return trained, apart


def texts_held_apart(texts: Texts) -> tuple[Texts, Texts]:
    """The texts to train on, with their questions, and one in thirty apart: nothing of them takes part in training."""
    documents, asked = texts
    trained: tuple[list[Document], Asked] = ([], {})
    apart: tuple[list[Document], Asked] = ([], {})
    for document in documents:
        kept, questions = apart if zlib.crc32(document.title.encode()) % 30 == 0 else trained
        kept.append(document)
        if document.title in asked:
            questions[document.title] = asked[document.title]
    return trained, apart


def exam(documents: Sequence[Document], asked: Asked) -> list[Exercise]:
    """The questions over each document, with that document first and the two nearest ones after it."""
    by_title = {document.title: document for document in documents}
    near = nearest(documents, 2)
    exercises = []
    for title, questions in asked.items():
        shown = [by_title[title], *near[title]]
        passages = tuple(passage(document.title, document.text) for document in shown)
        exercises.append(Exercise(passages, tuple(questions)))
    return exercises
