"""Texts and numbers in Portuguese and English, for the comparison page and the notebooks."""

from __future__ import annotations

from dataclasses import dataclass

from capacity.report.numbers import ENGLISH, PORTUGUESE, Numbers

LANGUAGES = ("pt-BR", "en")


@dataclass(frozen=True, slots=True)
class Locale:
    """A language: `text` selects the text in it, `numbers` formats figures for it."""

    language: str
    numbers: Numbers

    def text(self, portuguese: str, english: str) -> str:
        """The text in this language."""
        return portuguese if self.language == "pt-BR" else english


def locale_for(language: str) -> Locale:
    """Raises ValueError for a language other than LANGUAGES."""
    if language not in LANGUAGES:
        raise ValueError(f"LANGUAGE={language!r} is not one of {', '.join(LANGUAGES)}")
    return Locale(language, PORTUGUESE if language == "pt-BR" else ENGLISH)
