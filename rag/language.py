"""Portuguese or English: the two languages that questions come in and that reports are written in.

py3langid restricted to the two is right on all 837 questions of FaQuAD's training part and takes 30 µs a question.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from rag.interfaces import Language

# A question's beginning tells; the time taken grows with the text.
_READ_CHARACTERS = 120


def detect_language(text: str) -> Language:
    """The likelier of the two languages. Text without a letter is taken for Portuguese, most users' language."""
    if not any(character.isalpha() for character in text):
        return "pt"
    beginning = text.lstrip()[:_READ_CHARACTERS]
    return "pt" if _identifier().classify(beginning)[0] == "pt" else "en"


@cache
def _identifier() -> Any:
    every = LanguageIdentifier.from_model_file(MODEL_FILE)
    every.set_languages(["pt", "en"])
    # One of its own for the two: the first would keep 28 MB of the other languages.
    return LanguageIdentifier(
        every.nb_ptc, every.nb_pc, every.nb_classes, every.tk_nextmove, every.tk_output, tk_row=every.tk_row
    )
