"""The benchmarks' questions, and how well an answer agrees with the references.

Answers are compared as SQuAD does it (Rajpurkar et al., 2016), but accents count.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.interfaces import Language

QUESTIONS = Path(__file__).parents[1] / "questions.jsonl"

_ARTICLES = frozenset(["o", "a", "os", "as", "um", "uma", "the", "an"])


@dataclass(frozen=True, slots=True)
class ReferenceQuestion:
    """A question, its reference answers (none: unanswerable), and the source of the document that answers it."""

    text: str
    language: Language
    answers: tuple[str, ...]
    source: str | None

    @property
    def document(self) -> str | None:
        """The id of that document in the index: for a line of a .jsonl file, its own id without the file's name."""
        return self.source and self.source.rpartition("#")[2]


def read_questions(path: Path = QUESTIONS) -> list[ReferenceQuestion]:
    """The questions of a JSON Lines file. Raises ValueError with the number of an invalid line."""
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            questions.append(ReferenceQuestion(row["question"], row["language"], tuple(row["answers"]), row["source"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}, line {number}: {error!r}; question, language, answers and source are required"
            ) from None
    return questions


def question_texts() -> list[str]:
    """The texts of the project's questions."""
    return [question.text for question in read_questions()]


def normalised(answer: str) -> str:
    """Lower case without punctuation, articles and repeated spaces; accents are kept."""
    words = re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFC", answer).lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def exact(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer equals one of the references after normalisation."""
    return normalised(answer) in {normalised(reference) for reference in references}


def contains(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer contains a reference, in whole words, after normalisation."""
    return any(f" {normalised(reference)} " in f" {normalised(answer)} " for reference in references)


def f1(answer: str, references: Sequence[str]) -> float:
    """The highest F1 of the answer's words over the references."""
    return max((_f1(normalised(answer).split(), normalised(reference).split()) for reference in references), default=0)


def _f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    common = sum((Counter(answer) & Counter(reference)).values())
    return 2 * common / (len(answer) + len(reference)) if common else 0.0
