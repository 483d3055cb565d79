"""How far an answer agrees with reference answers, as SQuAD compares them (Rajpurkar et al., 2016), accents kept."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_ARTICLES = frozenset(["o", "a", "os", "as", "um", "uma", "the", "an"])


def normalised(answer: str) -> str:
    """Lower case without punctuation, articles and doubled blanks; accents stay."""
    words = re.sub(r"[^\w\s]", " ", unicodedata.normalize("NFC", answer).lower()).split()
    return " ".join(word for word in words if word not in _ARTICLES)


def exact(answer: str, references: Sequence[str]) -> bool:
    """Whether the answer equals one of the references after normalisation."""
    return normalised(answer) in {normalised(reference) for reference in references}


def contains(answer: str, references: Sequence[str]) -> bool:
    """Whether a reference stands in the answer, word for word."""
    return any(f" {normalised(reference)} " in f" {normalised(answer)} " for reference in references)


def f1(answer: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of the answer's words, for the reference that it meets best."""
    return max((_f1(normalised(answer).split(), normalised(reference).split()) for reference in references), default=0)


def _f1(said: Sequence[str], wanted: Sequence[str]) -> float:
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0
