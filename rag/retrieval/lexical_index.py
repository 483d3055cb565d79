"""BM25 over Portuguese and English texts, by bm25s, with scores that are comparable between questions.

The question is tokenized once per language, and each passage scored in its own: stop words and accents removed, words
stemmed. Besides stems, the words' character 4-grams are indexed; they match where stems don't: in compounds, irregular
forms, across the two languages, in misspelt names. A passage's score is BM25 divided by its upper bound for this
question, and so lies in [0, 1).
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import IndexRefused
from rag.interfaces import Language

# Lucene's variant of BM25 has no factor k1 + 1, so a term's score stays below its idf. Its defaults are used for stems;
# with 4-grams, a repeated word repeats all of its grams, so repetition has to count for less (which ranks better).
_STEMS_K1, _STEMS_B = 1.2, 0.75
_GRAMS_K1, _GRAMS_B = 0.9, 0.6
_GRAM_CHARACTERS = 4
# The prefix of a gram, which no word has; as a vocabulary entry of its own it marks an index with grams.
_GRAM = "#"
# Grams make the lexical index six times larger, 1.8 KB per passage instead of 0.3, and a search as much slower.
MOST_PASSAGES_WITH_GRAMS = 200_000

_ARRAYS = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy")
FILES = (*_ARRAYS, "vocab.index.json", "params.index.json")

_WORD = re.compile(r"\w+")
# The Portuguese stemmer recognises -ção and -ões by tilde and cedilla. Both are restored on every folded word, so that
# "informações", "informação" and "informacao" have the same stem.
_NASAL_ENDING = re.compile(r"(c?)(?:aos?|oes|aes)$")
_STEMMERS: dict[Language, str] = {"pt": "portuguese", "en": "english"}
_PER_THREAD = threading.local()  # a Stemmer keeps a buffer between calls


def fold(text: str) -> str:
    """Lower case without accents, so that "acao" matches "Ação"."""
    return unicodedata.normalize("NFKD", text.casefold()).translate(_marks())


@cache
def _marks() -> dict[int, None]:
    """For str.translate: removes combining marks. The last one in Unicode is U+1E94A."""
    return dict.fromkeys(code for code in range(0x300, 0x1F000) if unicodedata.combining(chr(code)))


def terms(text: str, language: Language) -> list[str]:
    """The indexed terms of `text`: its words, folded and stemmed, without the stop words of both languages."""
    return stems(words(text), language)


def stems(folded: Sequence[str], language: Language) -> list[str]:
    """The stem of each word."""
    found = list(folded)
    if language == "pt":
        found = [_NASAL_ENDING.sub(lambda ending: "ção" if ending[1] else "ão", word) for word in found]
    return [fold(stem) for stem in _stemmer(language).stemWords(found)]


def grams(text: str) -> list[str]:
    """The character 4-grams of each word of `text`, where each end of the word counts as one character."""
    found = []
    for word in words(text):
        marked = f"_{word}_"
        last = max(1, len(marked) - _GRAM_CHARACTERS + 1)
        found += [_GRAM + marked[start : start + _GRAM_CHARACTERS] for start in range(last)]
    return found


class LexicalIndex:
    """A BM25 index with the language of each passage. Thread-safe."""

    def __init__(self, bm25: Any, languages: Sequence[Language]) -> None:
        self._bm25 = bm25
        self._with_grams = _GRAM in bm25.vocab_dict
        self._is_english = np.array([language == "en" for language in languages], dtype=np.bool_)
        occurrences = np.diff(bm25.scores["indptr"])
        # Lucene's idf, which is never negative, by term id.
        self._idf = np.log1p((len(languages) - occurrences + 0.5) / (occurrences + 0.5))
        self._unknown_idf = float(np.log1p((len(languages) + 0.5) / 0.5))

    @classmethod
    def build(
        cls, texts: Iterable[str], languages: Sequence[Language], *, with_grams: bool | None = None
    ) -> LexicalIndex:
        """Index `texts`, one per passage, title included. `with_grams` None: only up to MOST_PASSAGES_WITH_GRAMS."""
        import bm25s  # noqa: PLC0415 - heavy

        if with_grams is None:
            with_grams = len(languages) <= MOST_PASSAGES_WITH_GRAMS
        # The empty term keeps the vocabulary non-empty. Terms are numbered as they occur, so that a passage takes four
        # bytes per term, and renumbered alphabetically, so that equal input gives an equal index.
        numbers = {"": 0, _GRAM: 1} if with_grams else {"": 0}
        passages = []
        for text, language in zip(texts, languages, strict=True):
            found = _terms_and_grams(text, language) if with_grams else terms(text, language)
            passages.append(np.array([numbers.setdefault(term, len(numbers)) for term in found] or [0], dtype=np.int32))
        vocabulary = {term: i for i, term in enumerate(sorted(numbers))}
        renumbered = np.array([vocabulary[term] for term in numbers], dtype=np.int32)
        bm25 = bm25s.BM25(
            k1=_GRAMS_K1 if with_grams else _STEMS_K1, b=_GRAMS_B if with_grams else _STEMS_B, method="lucene"
        )
        ids = [renumbered[passage] for passage in passages]
        bm25.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return cls(bm25, languages)

    @classmethod
    def load(cls, directory: Path, languages: Sequence[Language]) -> LexicalIndex:
        """Map the arrays that `save` wrote. Raises IndexRefused unless they are plain, consistent arrays."""
        import bm25s  # noqa: PLC0415 - heavy

        try:
            bm25 = bm25s.BM25.load(directory, mmap=True, allow_pickle=False, show_progress=False)
            data, indices, indptr = (bm25.scores[name] for name in ("data", "indices", "indptr"))
            consistent = (
                bm25.scores["num_docs"] == len(languages)
                and len(data) == len(indices) == indptr[-1]
                and len(bm25.vocab_dict) == len(indptr) - 1
                and (len(indices) == 0 or 0 <= indices.min() <= indices.max() < len(languages))
            )
        except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError) as error:
            raise IndexRefused(f"{directory} holds no BM25 index: {error}", value=str(directory)) from error
        if not consistent:
            raise IndexRefused(f"the arrays in {directory} are inconsistent", value=str(directory))
        return cls(bm25, languages)

    def save(self, directory: Path) -> None:
        """Write the FILES into `directory`: plain .npy arrays and JSON."""
        self._bm25.save(directory, show_progress=False, allow_pickle=False)

    def scores(self, question: str) -> NDArray[np.float32]:
        """(passages,): BM25 ÷ Σ idf of the question's terms, in [0, 1); 0 where no term occurs.

        Near 1, the passage repeats every term often; a passage of average length with each term once scores
        1 / (1 + k1), about a half. Terms that occur in no passage count in the divisor, as terms that every passage
        lacks.
        """
        tokenize = _terms_and_grams if self._with_grams else terms
        portuguese, english = (frozenset(tokenize(question, language)) for language in _STEMMERS)
        if portuguese == english or not self._is_english.any():
            return self._normalised(portuguese)
        if self._is_english.all():
            return self._normalised(english)
        return np.where(self._is_english, self._normalised(english), self._normalised(portuguese))

    def _normalised(self, question: frozenset[str]) -> NDArray[np.float32]:
        ids = [i for term in sorted(question) if (i := self._bm25.vocab_dict.get(term)) is not None]
        most = float(self._idf[ids].sum()) + self._unknown_idf * (len(question) - len(ids))
        scores: NDArray[np.float32] = self._bm25.get_scores_from_ids(ids)
        return scores / np.float32(most) if most > 0 else scores


def words(text: str) -> list[str]:
    """The words of `text`, folded, without the stop words of both languages."""
    return [word for word in _WORD.findall(fold(text)) if word not in _stop_words()]


def _terms_and_grams(text: str, language: Language) -> list[str]:
    return terms(text, language) + grams(text)


def _stemmer(language: Language) -> Any:
    import Stemmer  # noqa: PLC0415 - only needed for indexing and searching

    stemmers: dict[str, Any] = _PER_THREAD.__dict__
    if language not in stemmers:
        stemmers[language] = Stemmer.Stemmer(_STEMMERS[language])
    return stemmers[language]


@cache
def _stop_words() -> frozenset[str]:
    from bm25s.stopwords import STOPWORDS_EN_PLUS, STOPWORDS_PORTUGUESE  # noqa: PLC0415 - heavy

    # bm25s' Portuguese list lacks most interrogatives; it has "qual", "quem" and "quando".
    interrogatives = ("quais", "onde", "aonde", "quanto", "quantos", "quanta", "quantas", "porque")
    return frozenset(fold(word) for word in (*STOPWORDS_EN_PLUS, *STOPWORDS_PORTUGUESE, *interrogatives))
