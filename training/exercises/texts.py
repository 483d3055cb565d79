"""The texts that the training asks about: the shipped corpus, and others for reading; and what is held apart of them.

`corpus_questions.jsonl` holds {question, answer, source, language} a line; the answer stands in the source word for
word. None of them is worded nearly as a question of benchmarks/questions.jsonl, which stays apart for the evaluation;
many of the facts are the same. `reading.json`, in SQuAD's format, has short texts of every kind, most of their names
and numbers invented, so that reading is learnt where nothing can be known.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rag.documents.folder import read_folder
from rag.documents.squad import read_squad
from rag.interfaces import Language
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.prose import Document, nearest, read_corpus, split_sentences

QUESTIONS = Path(__file__).parent / "corpus_questions.jsonl"
READING = Path(__file__).parent / "reading.json"

Asked: TypeAlias = dict[str, list[Question]]
"""Questions by the title of the document that they are asked of; one without an answer is not answered there."""
Texts: TypeAlias = tuple[Sequence[Document], Asked]


@dataclass(frozen=True, slots=True)
class Material:
    """`documents` are all there are; `corpus` and `reading` are trained on, `exams` follow the training."""

    documents: Sequence[Document]
    corpus: Texts
    reading: Texts
    exams: dict[str, list[Exercise]]


def read_material(corpus: Path, questions: Path, reading: Path, squad: Path | None) -> Material:
    """The documents of the folder `corpus` with their `questions`; the texts of `reading`, and of `squad` if given.

    Raises ValueError where a file is of another format.
    """
    documents = read_corpus(corpus)
    asked = read_questions(questions, corpus) if documents else {}
    read: list[Document] = []
    asked_of_read: Asked = {}
    for path in [reading, squad] if squad else [reading]:
        paragraphs, more = read_squad_questions(path)
        read, asked_of_read = read + paragraphs, asked_of_read | more
    trained, examined = held_apart(asked)
    texts, texts_apart = texts_held_apart((read, asked_of_read))
    exams = {"corpus": exam(documents, examined), "reading": exam(*texts_apart)}
    return Material([*documents, *read], (documents, trained), texts, exams)


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
