"""Draws exercises over documents that have written questions, in the form of serving."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random

from rag.interfaces import Language
from training.exercises import lexicon
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.facts import LANGUAGES
from training.exercises.prose import ProseDocument
from training.exercises.texts import Asked

# The documents behind typical first questions: drawn more often, and together, as the retriever returns them.
FIRST_ASKED = ("Brazil: capital, people and borders", "Brasília, capital do Brasil", "Capitais de estados brasileiros")

# Answers that can be replaced by invented ones: a name, or a number with its unit.
_NAME = re.compile(r"[A-ZÀ-Ú][\w'-]+(?: (?:(?:de|da|do|dos|of|van) )?[A-ZÀ-Ú][\w'-]+)*")
_DIGITS = re.compile(r"\d+")


class TextQuestions:
    """Draws exercises over documents: whole ones, as a retriever returns them, or excerpts around an answer."""

    def __init__(
        self, documents: Sequence[ProseDocument], asked: Asked, beside: Mapping[str, Sequence[ProseDocument]]
    ) -> None:
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
        """A document, mostly ranked first, with similar documents, and questions over it.

        Unless `whole`, documents are excerpts of a few sentences, the first one's around an answer; questions are those
        that the excerpts answer, and sometimes an unanswerable one about a sentence that was left out.
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
            shown = [self._cut(rng, shown[0], language), *(_excerpt(rng, document) for document in shown[1:])]
        if rng.random() < 0.3:
            rng.shuffle(shown)
        titles = {document.title for document in shown}
        together = " ".join(document.text for document in shown)
        questions: list[Question] = []
        for document in shown:
            mine = self._asked.get(document.title, [])
            answered = [q for q in mine if q.language == language and q.answer and q.answer in document.text]
            questions += rng.sample(answered, min(6 if document.title == title else 1, len(answered)))
        gaps = [q for q in self._asked[title] if q.answer is None] if rng.random() < 0.5 else []
        if not whole and rng.random() < 0.5:
            cut = [q for q in self._asked[title] if q.language == language and q.answer and q.answer not in together]
            gaps = [replace(question, answer=None) for question in cut] or gaps
        questions += gaps and [rng.choice(gaps)]
        # An unanswerable question: one about a document that is not shown.
        others = [other for other in self._titles[language] if other not in titles]
        if others and (rng.random() < (0.3 if gaps else 0.8) or not questions):
            asked = self._asked[rng.choice(others)]
            unseen = [q for q in asked if q.language == language and q.answer and q.answer not in together]
            questions += [replace(question, answer=None) for question in unseen and [rng.choice(unseen)]]
        exercise = Exercise(
            tuple(passage(document.title, document.text) for document in shown),
            tuple(replace(question, text=reworded(rng, question.text)) for question in questions),
        )
        return renamed(rng, exercise) if rng.random() < 0.5 else exercise

    def _cut(self, rng: Random, document: ProseDocument, language: Language) -> ProseDocument:
        """At most three sentences, which answer one of the document's questions."""
        answers = [q.answer for q in self._asked[document.title] if q.language == language and q.answer]
        answer = rng.choice(answers) if answers else ""
        found = [number for number, sentence in enumerate(document.sentences) if answer in sentence]
        return document.excerpt(max(0, rng.choice(found) - rng.randrange(3)), 3) if found else _excerpt(rng, document)

    def _beside(self, rng: Random, title: str, count: int) -> list[ProseDocument]:
        return rng.sample(self._nearest[title], min(count, len(self._nearest[title])))


def _excerpt(rng: Random, document: ProseDocument) -> ProseDocument:
    return document.excerpt(rng.randrange(len(document.sentences)), 3)


def renamed(rng: Random, exercise: Exercise) -> Exercise:
    """The exercise with most of its answers' names and numbers replaced by invented ones, in every occurrence.

    So the model cannot memorise the documents, and has to read the answer.
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
    """The question unchanged, or as people type it: without one word, in lower case, or without question mark."""
    if rng.random() < 0.5:
        return text
    words = text.rstrip("?").split()
    if len(words) > 5 and rng.random() < 0.6:
        del words[rng.randrange(1, len(words))]
    changed = " ".join(words)
    if rng.random() < 0.3:
        changed = changed.lower()
    return changed if rng.random() < 0.3 else changed + "?"
