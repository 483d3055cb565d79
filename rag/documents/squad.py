"""Reads files in SQuAD's format (Rajpurkar et al., 2016), with the unanswerable questions of its second version."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rag.documents.folder import Document
from rag.interfaces import Language, Scalar
from rag.language import detect_language


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """A question, its reference answers (none: unanswerable), and the ids of its document and its article."""

    text: str
    answers: tuple[str, ...]
    document: str
    article: str

    @property
    def language(self) -> Language:
        """Detected on each access: it takes milliseconds, and most uses of a large file never need it."""
        return detect_language(self.text)


def read_squad(path: Path) -> tuple[list[Document], list[SquadQuestion]]:
    """Each paragraph as a document, and the questions. Raises ValueError for another format, with what is missing.

    The article's title is only in the metadata, as `article`: as the document's title it would be searched, and half
    answer the question which paragraph is meant. Equal paragraphs are one document.
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
                for row in paragraph["qas"]:
                    references = [] if row.get("is_impossible") else row.get("answers", [])
                    answers = tuple(dict.fromkeys(reference["text"] for reference in references))
                    questions.append(SquadQuestion(row["question"], answers, documents[text].id, str(number)))
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not in SQuAD's format: {error!r}") from None
    return list(documents.values()), questions
