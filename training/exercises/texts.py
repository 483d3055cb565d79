"""The texts and questions for training: the shipped corpus and other texts, each with a held-out part.

A line of `corpus_questions.jsonl` has {question, answer, source, language}; the answer is a literal part of the source.
No question is worded similarly to one of benchmarks/questions.jsonl, which is reserved for evaluation; many of the
facts are the same. `reading.json`, in SQuAD's format, has short texts of every kind, with mostly invented names and
numbers, so that answers can only be found by reading.
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
from training.exercises.prose import ProseDocument, nearest, read_corpus, split_sentences

QUESTIONS = Path(__file__).parent / "corpus_questions.jsonl"
READING = Path(__file__).parent / "reading.json"

Asked: TypeAlias = dict[str, list[Question]]
"""Questions by the title of their document; one without an answer is not answered there."""
Texts: TypeAlias = tuple[Sequence[ProseDocument], Asked]


@dataclass(frozen=True, slots=True)
class Material:
    """`documents`: all of them; `corpus` and `reading`: the training data; `exams`: the held-out exercises."""

    documents: Sequence[ProseDocument]
    corpus: Texts
    reading: Texts
    exams: dict[str, list[Exercise]]


def read_material(corpus: Path, questions: Path, reading: Path, squad: Path | None) -> Material:
    """The documents of the folder `corpus` with their `questions`; the texts of `reading`, and of `squad` if given.

    Raises ValueError where a file is of another format.
    """
    documents = read_corpus(corpus)
    asked = read_questions(questions, corpus) if documents else {}
    read: list[ProseDocument] = []
    text_questions: Asked = {}
    for path in [reading, squad] if squad else [reading]:
        paragraphs, more = read_squad_questions(path)
        read, text_questions = read + paragraphs, text_questions | more
    trained, held_out = hold_out_questions(asked)
    texts, held_out_texts = hold_out_texts((read, text_questions))
    exams = {"corpus": exam(documents, held_out), "reading": exam(*held_out_texts)}
    return Material([*documents, *read], (documents, trained), texts, exams)


def read_questions(path: Path, folder: Path) -> Asked:
    """The questions of `path` by the title of the document in `folder` that answers them."""
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


def read_squad_questions(path: Path) -> tuple[list[ProseDocument], Asked]:
    """The paragraphs and questions of a file in SQuAD's format. Paragraphs of one article are numbered in their titles.

    Of several reference answers, the first one that occurs in the paragraph is used; without one, the question is
    skipped. Raises ValueError for another format.
    """
    paragraphs, questions = read_squad(path)
    documents: dict[str, ProseDocument] = {}
    seen: Counter[str] = Counter()
    for paragraph in paragraphs:
        article = str(paragraph.metadata["article"])
        seen[article] += 1
        title = f"{article}, {seen[article]}" if seen[article] > 1 else article
        language: Language = "pt" if paragraph.metadata["language"] == "pt" else "en"
        text = paragraph.text.strip()
        documents[paragraph.id] = ProseDocument(title, text, split_sentences(text), language)
    asked: Asked = {}
    for question in questions:
        document = documents[question.document]
        answer = next((answer for answer in question.answers if answer in document.text), None)
        if answer is not None or not question.answers:
            asked.setdefault(document.title, []).append(Question(question.text, answer, document.language))
    return list(documents.values()), asked


def hold_out_questions(asked: Asked) -> tuple[Asked, Asked]:
    """The questions to train on, and one in thirty, held out for scoring."""
    trained: Asked = {}
    held_out: Asked = {}
    for title, questions in asked.items():
        for question in questions:
            chosen = held_out if zlib.crc32(question.text.encode()) % 30 == 0 else trained
            chosen.setdefault(title, []).append(question)
    return trained, held_out


def hold_out_texts(texts: Texts) -> tuple[Texts, Texts]:
    """The texts to train on with their questions, and one text in thirty, held out completely."""
    documents, asked = texts
    trained: tuple[list[ProseDocument], Asked] = ([], {})
    held_out: tuple[list[ProseDocument], Asked] = ([], {})
    for document in documents:
        kept, questions = held_out if zlib.crc32(document.title.encode()) % 30 == 0 else trained
        kept.append(document)
        if document.title in asked:
            questions[document.title] = asked[document.title]
    return trained, held_out


def exam(documents: Sequence[ProseDocument], asked: Asked) -> list[Exercise]:
    """The questions over each document, with that document first and the two most similar ones after it."""
    by_title = {document.title: document for document in documents}
    near = nearest(documents, 2)
    exercises = []
    for title, questions in asked.items():
        shown = [by_title[title], *near[title]]
        passages = tuple(passage(document.title, document.text) for document in shown)
        exercises.append(Exercise(passages, tuple(questions)))
    return exercises
