"""Language detection: Portuguese or English, the two languages of questions and answers.

py3langid restricted to the two is right on all 837 questions of FaQuAD's training part and takes 30 µs a question.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from rag.interfaces import Language

# The start of a question is enough, and the time grows with the text.
_READ_CHARACTERS = 120


def detect_language(text: str) -> Language:
    """The more likely of the two languages. Text without a letter counts as Portuguese, most users' language."""
    if not any(character.isalpha() for character in text):
        return "pt"
    beginning = text.lstrip()[:_READ_CHARACTERS]
    return "pt" if _identifier().classify(beginning)[0] == "pt" else "en"


@cache
def _identifier() -> Any:
    full = LanguageIdentifier.from_model_file(MODEL_FILE)
    full.set_languages(["pt", "en"])
    # A second identifier with these two only: the first would keep 28 MB of the other languages.
    return LanguageIdentifier(
        full.nb_ptc, full.nb_pc, full.nb_classes, full.tk_nextmove, full.tk_output, tk_row=full.tk_row
    )
