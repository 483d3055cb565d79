"""Normalisation of text for look-ups in another text: words by stem, numbers by value, names, negations, clauses.

For Portuguese and English alike, without language detection: "21/04/1960" is "21 de abril de 1960", "327,680" is
"327.680", "twelve" is "12".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from rag.retrieval.lexical_index import fold, stems

_WORD = re.compile(r"\d+(?:\.\d+)?(?!\w)|\w+")
_SENTENCE_END = re.compile(r"(?<=[.;!?])\s+|\n+")
_CLAUSE_END = re.compile(r"[,;:!?()]\s*|\.\s+|\.$|\s(?:e|and|mas|but|while|whereas|enquanto|embora|although)\s")
# Stop words carry no claim; with a longer list, short answers would have no content words left.
_STOP_WORDS = frozenset(
    re.split(
        r"\s+",
        "a o as os um uma de do da dos das em no na nos nas e ou que se por pelo pela pelos pelas para com ao aos como "
        "porque quando onde sao foi foram ser era tem teve houve ocorreu aconteceu inicio sua seu suas seus isso esta "
        "este essa esse ele ela eles elas ambos ambas mesmo mesma tambem sim the an of in on at and or is are was were "
        "to for with by it its as that this be been he she they which has have had from because when where both same "
        "also there took place happened occurred yes",
    )
)
_NEGATIONS = frozenset(
    re.split(r"\s+", "nao nunca jamais nem nenhum nenhuma sem not never none neither nor without cannot nothing")
)
# Prepositions of the agent in the passive: with one, subject and object can be swapped without changing the fact.
_AGENTS = frozenset(["por", "pelo", "pela", "pelos", "pelas", "by"])

_MONTHS = (
    ("january", "janeiro"), ("february", "fevereiro"), ("march", "marco"), ("april", "abril"), ("may", "maio"),
    ("june", "junho"), ("july", "julho"), ("august", "agosto"), ("september", "setembro"), ("october", "outubro"),
    ("november", "novembro"), ("december", "dezembro"),
)  # fmt: skip
_MONTH_NAMES = {name: names[0] for names in _MONTHS for name in names}
# Not "um" and "one": they are articles and pronouns more often.
_COUNTED = (
    "dois duas two", "tres three", "quatro four", "cinco five", "seis six", "sete seven", "oito eight", "nove nine",
    "dez ten", "onze eleven", "doze twelve", "treze thirteen", "catorze quatorze fourteen", "quinze fifteen",
    "dezesseis sixteen", "dezessete seventeen", "dezoito eighteen", "dezenove nineteen", "vinte twenty",
)  # fmt: skip
_NUMBER_WORDS = {word: str(number) for number, words in enumerate(_COUNTED, start=2) for word in words.split()}
_SCALES = {
    **dict.fromkeys(("mil", "thousand"), 10**3),
    **dict.fromkeys(("million", "millions", "milhao", "milhoes"), 10**6),
    **dict.fromkeys(("billion", "billions", "bilhao", "bilhoes"), 10**9),
}
_SCALED = re.compile(
    r"(?<!\d)(\d+(?:\.\d+)?)\s+(mil|thousand|millions?|milhão|milhões|billions?|bilhão|bilhões)\b", re.IGNORECASE
)
_DATE = re.compile(r"\b(\d{1,2})[/.](\d{1,2})[/.](\d{4})\b")
_ISO_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_GROUPED = re.compile(r"(?<![\w.,])(\d{1,3}([.,\u00a0\u202f])\d{3}(?:\2\d{3})*)(?:[.,](\d{1,2}))?(?!\d)")
_ORDINAL = re.compile(r"\b(\d+)(?:st|nd|rd|th|º|ª)(?!\w)")


@dataclass(frozen=True, slots=True)
class ContentWord:
    """A word or number, case-folded, and whether it has a capital.

    It is `fixed` if it matches in this form only: names, and everything with a digit.
    """

    text: str
    capital: bool
    fixed: bool


def plain(text: str) -> str:
    """The text with dates and numbers in one format, and "n't" as a word."""

    def date(day: str, month: str, year: str) -> str:
        number = int(month)
        return f"{int(day)} {_MONTHS[number - 1][0]} {year}" if 1 <= number <= 12 else f"{day} {month} {year}"

    def scaled(found: re.Match[str]) -> str:
        return f"{float(found[1]) * _SCALES[fold(found[2])]:.15g}"

    text = re.sub(r"n['’]t\b", " not", text)
    text = _ISO_DATE.sub(lambda found: date(found[3], found[2], found[1]), text)
    text = _DATE.sub(lambda found: date(found[1], found[2], found[3]), text)
    text = _GROUPED.sub(lambda found: re.sub(r"\D", "", found[1]) + (f".{found[3]}" if found[3] else ""), text)
    text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    return _SCALED.sub(scaled, _ORDINAL.sub(r"\1", text))


def words(text: str) -> list[str]:
    """Every word and number of a plain text, case-folded: months by their English name, number words as digits."""
    found = _WORD.findall(fold(text))
    return [_NUMBER_WORDS.get(word) or _MONTH_NAMES.get(word, word) for word in found]


def content(text: str) -> list[ContentWord]:
    """The content words of a plain text. One with a capital is a name, except the first word."""
    found = []
    for place, raw in enumerate(_WORD.findall(text)):
        for word in words(raw):  # nearly always one; "½" is 1 and 2
            if word not in _STOP_WORDS and word not in _NEGATIONS:
                capital = raw[0].isupper() and word == fold(raw)
                has_digit = any(character.isdigit() for character in word)
                found.append(ContentWord(word, capital, has_digit or (capital and place > 0)))
    return found


def clauses(text: str, least: int = 1) -> list[str]:
    """The clauses of a plain text; one with fewer than `least` content words is joined to its neighbour."""
    pieces: list[str] = []
    pending: list[str] = []
    found = 0
    for piece in _CLAUSE_END.split(text):
        if not piece:
            continue
        pending.append(piece)
        found += len(content(piece))
        if found >= least:
            pieces.append(" ".join(pending))
            pending, found = [], 0
    rest = " ".join(pending)
    if pieces and rest:
        pieces[-1] += f" {rest}"
    return pieces or [rest]


def sentences(text: str) -> list[str]:
    """The sentences of a plain text."""
    return [piece for piece in _SENTENCE_END.split(text) if piece]


def is_negated(text: str) -> bool:
    """Whether a plain text has an odd number of negations."""
    return sum(word in _NEGATIONS for word in words(text)) % 2 == 1


def has_agent(text: str) -> bool:
    """Whether a plain text has an agent ("by X"), as passive sentences do."""
    return any(word in _AGENTS for word in words(text))


class Vocabulary:
    """The words and stems of a plain text."""

    def __init__(self, text: str) -> None:
        self._words = frozenset(words(text))
        self._stems = frozenset(stem for word in self._words for stem in _stems(word))

    def contains(self, term: ContentWord) -> bool:
        """By the word itself; one that is not fixed also by its stem in either language."""
        return term.text in self._words or (not term.fixed and not self._stems.isdisjoint(_stems(term.text)))

    def count(self, terms: Iterable[ContentWord]) -> int:
        """How many of the terms it contains."""
        return sum(map(self.contains, terms))


@lru_cache(maxsize=8192)
def _stems(word: str) -> frozenset[str]:
    return frozenset(f"{language}:{stem}" for language in ("pt", "en") for stem in stems([word], language))
