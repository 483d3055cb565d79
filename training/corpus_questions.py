"""Questions written over the shipped corpus, as exercises in the shape of serving.

`corpus_questions.jsonl` holds {question, answer, source, language} a line; the answer stands in the source word for
word. None of them is worded as a question of benchmarks/questions.jsonl, which stays apart for the evaluation; many of
the facts are the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from rag.documents import read_folder
from training.curriculum import Curriculum
from training.exercise import Exercise, Question, passage
from training.packing import Packed
from training.prose import Document, nearest

# A newcomer's first questions go to these: they come up more often, and beside one another as the retriever has them.
FIRST_ASKED = ("Brazil: capital, people and borders", "Brasília, capital do Brasil", "Capitais de estados brasileiros")
QUESTIONS = Path(__file__).parent / "corpus_questions.jsonl"


class CorpusQuestions:
    """Draws exercises over the corpus; the other share comes from the generated ones of the last stages."""

    def __init__(
        self, generated: Curriculum, folder: Path, questions: Path = QUESTIONS, *, corpus_share: float = 0.9
    ) -> None:
        self.documents = generated.documents
        self._generated = generated
        self._corpus_share = corpus_share
        self._by_title = {document.title: document for document in generated.documents}
        self._nearest = nearest(generated.documents, 6)
        self._asked = read_questions(questions, folder)

    def draw(self, rng: Random, stage: int) -> Exercise | Packed:
        """The next exercise: over one to three documents of the corpus, or a generated one of this stage."""
        if rng.random() > self._corpus_share:
            return self._generated.draw(rng, stage)
        return self.exercise(rng)

    def exercise(self, rng: Random) -> Exercise:
        """A document, mostly first as a retriever would have it, near ones beside it, and questions over the former."""
        first = rng.random() < 0.08
        title = rng.choice(FIRST_ASKED if first else sorted(self._asked))
        beside = self._beside(rng, title, rng.choice((0, 0, 1, 1, 2)))
        if first and rng.random() < 0.6:
            beside = [self._by_title[other] for other in FIRST_ASKED if other != title][: rng.randint(1, 2)]
        titles = [title, *(document.title for document in beside)]
        if rng.random() < 0.3:
            rng.shuffle(titles)
        questions = rng.sample(self._asked[title], min(6, len(self._asked[title])))
        for document in beside:
            questions += rng.sample(
                self._asked.get(document.title, []), min(2, len(self._asked.get(document.title, [])))
            )
        if rng.random() < 0.6:
            strange = rng.choice([other for other in sorted(self._asked) if other not in titles])
            together = " ".join(self._by_title[name].text for name in titles)
            for question in rng.sample(self._asked[strange], 2):
                if question.answer and question.answer not in together:
                    questions.append(Question(question.text, None, question.language))
        passages = tuple(passage(name, self._by_title[name].text) for name in titles)
        return Exercise(passages, tuple(replace(question, text=reworded(rng, question.text)) for question in questions))

    def _beside(self, rng: Random, title: str, count: int) -> list[Document]:
        near = [document for document in self._nearest[title] if document.title in self._by_title]
        return rng.sample(near, min(count, len(near)))


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


def read_questions(path: Path, folder: Path) -> dict[str, list[Question]]:
    """Questions by the title of the document that answers them."""
    titles = {}
    for document in read_folder(folder).documents:
        titles[str(document.metadata["source"])] = document.title
        titles[f"{document.metadata['source']}#{document.id}"] = document.title
    asked: dict[str, list[Question]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row.get("answers") == []:
            continue
        answer = row["answer"] if "answer" in row else row["answers"][0]
        asked.setdefault(titles[row["source"]], []).append(Question(row["question"], answer, row["language"]))
    return asked


def exam(documents: Sequence[Document], folder: Path, questions: Path) -> list[Exercise]:
    """One exercise a question, with its document first and the two nearest ones after it."""
    by_title = {document.title: document for document in documents}
    near = nearest(documents, 2)
    exercises = []
    for title, asked in read_questions(questions, folder).items():
        shown = [by_title[title], *near[title]]
        passages = tuple(passage(document.title, document.text) for document in shown)
        exercises += [Exercise(passages, (question,)) for question in asked]
    return exercises
