"""Two languages for what people read: words chosen side by side, numbers with each language's marks."""

from __future__ import annotations

from dataclasses import dataclass

from capacity.report.numbers import ENGLISH, PORTUGUESE, Numbers

LANGUAGES = ("pt-BR", "en")


@dataclass(frozen=True, slots=True)
class Speaker:
    """One language: `say` picks its words, `numbers` writes figures with its marks."""

    language: str
    numbers: Numbers

    def say(self, portuguese: str, english: str) -> str:
        """The words of this language."""
        return portuguese if self.language == "pt-BR" else english


def speaker(language: str) -> Speaker:
    """Raises ValueError for a language that is not spoken here."""
    if language not in LANGUAGES:
        raise ValueError(f"LANGUAGE={language!r} is not one of {', '.join(LANGUAGES)}")
    return Speaker(language, PORTUGUESE if language == "pt-BR" else ENGLISH)
