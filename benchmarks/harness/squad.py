"""Files in SQuAD's format (Rajpurkar et al., 2016), the unanswerable questions of its second version included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rag.documents.folder import Document
from rag.interfaces import Language, Scalar
from rag.language import detect_language


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """A question, its reference answers (none: its paragraph doesn't tell), and where it was asked."""

    text: str
    answers: tuple[str, ...]
    document: str
    article: str

    @property
    def language(self) -> Language:
        """Detected anew each time, which takes milliseconds: a file may hold thousands whose language nobody asks."""
        return detect_language(self.text)


def read_squad(path: Path) -> tuple[list[Document], list[SquadQuestion]]:
    """Each paragraph a document, and the questions. Raises ValueError for another format, with what is missing.

    Documents have no title: it would tell which article a paragraph is from, which is half the question; it is in the
    metadata as `article`. A paragraph that stands there twice is one document.
    """
    documents: dict[str, Document] = {}
    questions: list[SquadQuestion] = []
    try:
        for number, article in enumerate(json.loads(path.read_text(encoding="utf-8"))["data"]):
            for paragraph in article["paragraphs"]:
                text = paragraph["context"]
                if text not in documents:
                    name, title = f"paragraph {len(documents)}", str(article.get("title", "")).replace("_", " ")
                    metadata: dict[str, Scalar] = {"language": detect_language(text), "source": name, "article": title}
                    documents[text] = Document(name, "", text, metadata)
                for asked in paragraph["qas"]:
                    told = [] if asked.get("is_impossible") else asked.get("answers", [])
                    answers = tuple(dict.fromkeys(answer["text"] for answer in told))
                    questions.append(SquadQuestion(asked["question"], answers, documents[text].id, str(number)))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not in SQuAD's format: {error!r}") from None
    return list(documents.values()), questions
