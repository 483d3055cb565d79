"""Whether an answer stands in the passages it was given, and in which of them.

A measure by words: the share of the answer's content words that one passage holds, with every number required. A
verbatim span scores 1. It needs no model and says nothing about truth, only about support.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from rag.prompt import NOT_IN_PASSAGES
from rag.seams import Passage

# A passage that holds at least this share of the answer's content words supports it.
_SUPPORT = 0.7

_MARKER = re.compile(r"\[(\d{1,3})\]")
_WORD = re.compile(r"\w+")
# Words that carry no claim of their own; a longer list would only hide short answers.
_STOP_WORDS = frozenset(
    re.split(
        r"\s+",
        "a o as os um uma de do da dos das em no na nos nas e ou que se por para com ao aos sao foi "
        "the an of in on at and or is are was were to for with by it its as that this",
    )
)


@dataclass(frozen=True, slots=True)
class Grounding:
    """`cited` are positions in the list of passages. `score` is the best support, 0 to 1."""

    grounded: bool
    score: float
    cited: frozenset[int]


def ground(answer: str, passages: Sequence[Passage]) -> Grounding:
    """Locate `answer` in `passages`. Markers like [2] in the answer cite as well, if that passage exists.

    "The passages do not say" claims nothing, so it is neither grounded nor cited.
    """
    claim = _MARKER.sub(" ", answer)
    if not passages or any(_folded(claim).strip() == _folded(refusal) for refusal in NOT_IN_PASSAGES.values()):
        return Grounding(grounded=False, score=0.0, cited=frozenset())
    support = [_support(claim, f"{passage.title}\n{passage.text}") for passage in passages]
    best = max(support)
    marked = {int(number) - 1 for number in _MARKER.findall(answer)} & set(range(len(passages)))
    supporting = {place for place, share in enumerate(support) if share >= _SUPPORT and share == best}
    return Grounding(grounded=best >= _SUPPORT, score=round(best, 3), cited=frozenset(marked | supporting))


def _support(claim: str, text: str) -> float:
    spoken, written = _WORD.findall(_folded(claim)), _WORD.findall(_folded(text))
    if not spoken:
        return 0.0
    if f" {' '.join(spoken)} " in f" {' '.join(written)} ":
        return 1.0
    held = set(written)
    content = [word for word in spoken if word not in _STOP_WORDS]
    if not content or any(word not in held for word in content if any(c.isdigit() for c in word)):
        return 0.0
    # short of verbatim: a bag of words never counts as much as the span itself
    return 0.95 * sum(word in held for word in content) / len(content)


def _folded(text: str) -> str:
    decomposed = unicodedata.normalize("NFD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character))
