"""The relations that generated facts state and ask for, parsed from the table in relation_rows.py."""

from __future__ import annotations

from dataclasses import dataclass

from rag.interfaces import Language
from training.exercises.lexicon import Name
from training.exercises.relation_rows import ROWS, Draw


@dataclass(frozen=True, slots=True)
class Phrasing:
    """How one language states a relation and asks for its value (forward) or its subject (backward)."""

    statements: tuple[str, ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation between a subject of a kind and a randomly drawn value."""

    subject: str
    value: Draw
    phrasings: dict[Language, Phrasing]


def _groups(text: str, count: int) -> list[tuple[str, ...]]:
    groups = [tuple(filter(None, map(str.strip, group.split(" | ")))) for group in text.split("||")]
    return groups if len(groups) == count else [()] * count


def _relations(subject: str, value: Draw, texts: list[str]) -> list[Relation]:
    """The relations of a row: one per group of phrasings, separated by "||"."""
    count = texts[0].count("||") + 1
    pt_statements, pt_forward, pt_backward, en_statements, en_forward, en_backward = (
        _groups(text, count) for text in texts
    )
    return [
        Relation(
            subject,
            value,
            {
                "pt": Phrasing(pt_statements[group], pt_forward[group], pt_backward[group]),
                "en": Phrasing(en_statements[group], en_forward[group], en_backward[group]),
            },
        )
        for group in range(count)
    ]


RELATIONS: tuple[Relation, ...] = tuple(
    relation for subject, value, *texts in ROWS for relation in _relations(subject, value, texts)
)

_ARTICLES: dict[str, dict[str, str]] = {
    "o": {"m": "o ", "f": "a ", "n": ""},
    "de": {"m": "do ", "f": "da ", "n": "de "},
    "em": {"m": "no ", "f": "na ", "n": "em "},
    "a": {"m": "ao ", "f": "à ", "n": "a "},
}


def fill(phrasing: str, subject: Name, value: Name) -> str:
    """The phrasing with its placeholders filled; the case of its first letter is unchanged."""
    values = {"s": subject.text, "v": value.text}
    for letter, name in (("s", subject), ("v", value)):
        for preposition, forms in _ARTICLES.items():
            values[f"{preposition}_{letter}"] = forms[name.gender] + name.text
    return phrasing.format(**values)


def capitalise(sentence: str) -> str:
    """The sentence with a capital first letter, unless it starts with a setting's name, which keeps its spelling."""
    first = sentence.split(" ", 1)[0]
    return sentence if "_" in first or not first.islower() else sentence[0].upper() + sentence[1:]
