"""Prose to select spans from: the documents of a corpus folder, and generated documents of invented words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rag.documents.folder import read_folder
from rag.interfaces import Language
from training.exercises import lexicon
from training.exercises.lexicon import words

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-ZÀ-Ú0-9\"“(])")
_FUNCTION_WORDS: dict[Language, tuple[str, ...]] = {
    "pt": words("o a os as um uma de do da em no na por para com que se ao à entre sobre sem até"),
    "en": words("the a an of in on by for with that to at from between over without until into"),
}
_COPULAS: dict[Language, tuple[str, ...]] = {
    "pt": words("é são foi tem usa fica guarda recebe devolve mede contém vem permite chama-se serve"),
    "en": words("is are was has uses holds takes returns contains comes allows keeps makes means runs"),
}


@dataclass(frozen=True, slots=True)
class ProseDocument:
    """A title, a text with its paragraphs, and the text's sentences, each a literal part of it."""

    title: str
    text: str
    sentences: tuple[str, ...]
    language: Language

    def excerpt(self, start: int, sentences: int) -> ProseDocument:
        """A document of `sentences` sentences from `start` on, in one paragraph."""
        kept = self.sentences[start : start + sentences]
        return ProseDocument(self.title, " ".join(kept), kept, self.language)


def split_sentences(text: str) -> tuple[str, ...]:
    """The text's sentences, split after end punctuation before a capital letter or a digit."""
    return tuple(sentence for sentence in _SENTENCE_END.split(text) if sentence)


def read_corpus(folder: Path) -> list[ProseDocument]:
    """The documents below `folder`, read as for the index; an empty list without such a folder."""
    if not folder.is_dir():
        return []
    return [
        ProseDocument(
            document.title,
            document.text,
            tuple(sentence for line in document.text.split("\n") for sentence in split_sentences(line)),
            "pt" if document.metadata["language"] == "pt" else "en",
        )
        for document in read_folder(folder).documents
    ]


def nearest(documents: Sequence[ProseDocument], count: int) -> dict[str, tuple[ProseDocument, ...]]:
    """By title, the documents of the same language that share most words with it, like a retriever's results."""
    vocabularies = [
        frozenset(re.findall(r"\w{4,}", f"{document.title} {document.text}".lower())) for document in documents
    ]
    neighbours = {}
    for one, document in enumerate(documents):
        others = [
            (len(vocabularies[one] & vocabularies[other]) / len(vocabularies[one] | vocabularies[other]), other)
            for other in range(len(documents))
            if other != one and documents[other].language == document.language
        ]
        neighbours[document.title] = tuple(documents[other] for _, other in sorted(others, reverse=True)[:count])
    return neighbours


def invented_document(rng: Random, language: Language, *, sentences: int) -> ProseDocument:
    """A document of invented words between real function words, verbs, numbers and names."""
    vocabulary = [lexicon.invented_word(rng, language) for _ in range(rng.randint(12, 30))]
    names = [lexicon.proper(rng, language).text for _ in range(rng.randint(2, 5))]
    lines = [" ".join(_invented_words(rng, language, vocabulary, names)) for _ in range(sentences)]
    sentences_written = tuple(line[0].upper() + line[1:] + "." for line in lines)
    title = rng.choice((rng.choice(names), " ".join(rng.sample(vocabulary, 2)).capitalize()))
    text = sentences_written[0]
    for sentence in sentences_written[1:]:
        text += rng.choice((" ", " ", " ", " ", "\n\n", "\n")) + sentence
    return ProseDocument(title, text, sentences_written, language)


def _invented_words(rng: Random, language: Language, vocabulary: list[str], names: list[str]) -> Iterator[str]:
    length = rng.randint(4, 16)
    verb_at = rng.randint(1, length - 2)
    for position in range(length):
        chance = rng.random()
        if position == verb_at:
            yield rng.choice(_COPULAS[language])
        elif chance < 0.35 and position < length - 1:
            yield rng.choice(_FUNCTION_WORDS[language])
        elif chance < 0.45:
            yield rng.choice(names) if rng.random() < 0.5 else lexicon.proper(rng, language).text
        elif chance < 0.53:
            draw = rng.choice((lexicon.year, lexicon.date, lexicon.quantity("count"), lexicon.integer))
            yield draw(rng, language).text
        else:
            word = rng.choice(vocabulary)
            yield word + "," if rng.random() < 0.08 and position < length - 1 else word
