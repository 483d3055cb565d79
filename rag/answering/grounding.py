"""Whether an answer stands in the passages it was given, and in which of them.

A measure by words that needs no model and says nothing about truth, only about support. A verbatim span scores 1. Else
every clause of the answer must find two neighbouring sentences of a passage that, with its title, hold three quarters
of its content words, in this or a related form, and all of its names and numbers; as much negation in the clause that
says the like; and names in the same order, unless one of the two says by whom. benchmarks/groundedness.py measures it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rag.answering import text_matching
from rag.answering.prompt import NOT_IN_PASSAGES
from rag.answering.text_matching import Term, Vocabulary
from rag.interfaces import Passage

# A passage that holds at least this share of a clause's content words supports it.
_SUPPORT = 0.75

_MARKER = re.compile(r"\[(\d{1,3})\]")
_LEAD_IN = re.compile(
    r"^\s*(?:(?:sim|não|yes|no)\s*[,.:]\s*"
    r"|(?:segundo|de acordo com|conforme|according to|based on|as stated in)\s[^,:]{3,40}[,:]\s*"
    r"|(?:a resposta é|the answer is)\s*:?\s*)+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Grounding:
    """`cited` are positions in the list of passages; `score` is the mean support of the answer's clauses, 0 to 1.

    Grounded is an answer of which every clause is.
    """

    grounded: bool
    score: float
    cited: frozenset[int]


def ground(answer: str, passages: Sequence[Passage]) -> Grounding:
    """Locate `answer` in `passages`. Markers like [2] in the answer cite as well, if that passage exists.

    "The passages do not say" claims nothing, so it is neither grounded nor cited.
    """
    claim = text_matching.plain(_LEAD_IN.sub("", _MARKER.sub(" ", answer)))
    said = text_matching.words(claim)
    if not passages or not said or any(said == text_matching.words(refusal) for refusal in NOT_IN_PASSAGES.values()):
        return Grounding(grounded=False, score=0.0, cited=frozenset())
    marked = {int(number) - 1 for number in _MARKER.findall(answer)} & set(range(len(passages)))
    read = [_Read(passage) for passage in passages]
    verbatim = {place for place, passage in enumerate(read) if passage.holds_verbatim(said)}
    if verbatim:
        return Grounding(grounded=True, score=1.0, cited=frozenset(marked | verbatim))
    support = [[passage.support(clause) for passage in read] for clause in text_matching.clauses(claim, least=2)]
    whole = [min(shares) for shares in zip(*support, strict=True)]
    if max(whole) >= _SUPPORT:  # one passage says it all
        support = [whole]
    best = [max(shares) for shares in support]
    supporting = {
        place for shares in support for place, share in enumerate(shares) if share >= _SUPPORT and share == max(shares)
    }
    grounded = min(best) >= _SUPPORT
    cited = frozenset(marked | supporting) if grounded else frozenset(marked)
    return Grounding(grounded, round(sum(best) / len(best), 3), cited)


class _Read:
    """A passage, ready to be asked."""

    def __init__(self, passage: Passage) -> None:
        self._title, self._text = text_matching.plain(passage.title), text_matching.plain(passage.text)

    def holds_verbatim(self, said: Sequence[str]) -> bool:
        """Whether these words stand in it side by side."""
        return f" {' '.join(said)} " in f" {' '.join(text_matching.words(f'{self._title} {self._text}'))} "

    @cached_property
    def _sentences(self) -> list[tuple[str, Vocabulary]]:
        return [(sentence, Vocabulary(sentence)) for sentence in text_matching.sentences(self._text)]

    @cached_property
    def _clauses(self) -> list[tuple[str, Vocabulary]]:
        return [(clause, Vocabulary(clause)) for clause in text_matching.clauses(self._text)]

    @cached_property
    def _reaches(self) -> list[Vocabulary]:
        """Of each sentence with the one before it and the title, where its subject often is."""
        sentences = text_matching.sentences(self._text)
        return [
            Vocabulary(f"{self._title} {before} {sentence}")
            for before, sentence in zip(["", *sentences], sentences or [""], strict=False)
        ]

    def support(self, clause: str) -> float:
        """The share of the clause's content words that it holds; 0 where it says something else with them."""
        terms = text_matching.content(clause)
        fixed = [term for term in terms if term.fixed]
        reaches = [reach for reach in self._reaches if reach.held(fixed) == len(fixed)]
        if not terms or not reaches:
            return 0.0
        share = max(reach.held(terms) for reach in reaches) / len(terms)
        if share < _SUPPORT or self._says_the_opposite(clause, terms) or self._in_other_roles(clause, terms):
            return 0.0
        return 0.95 * share  # a bag of words never counts as much as the span itself

    def _says_the_opposite(self, clause: str, terms: Sequence[Term]) -> bool:
        held = [vocabulary.held(terms) for _, vocabulary in self._clauses]
        nearest = [text for (text, _), count in zip(self._clauses, held, strict=True) if count == max(held, default=0)]
        return bool(nearest) and all(
            text_matching.is_negated(text) != text_matching.is_negated(clause) for text in nearest
        )

    def _in_other_roles(self, clause: str, terms: Sequence[Term]) -> bool:
        """Whether all sentences that hold every term have the names in another order, none of them saying by whom."""
        names = [term.text for term in terms if term.capital]
        holding = [text for text, vocabulary in self._sentences if vocabulary.held(terms) == len(terms)]
        if len(set(names)) < 2 or not holding:
            return False

        def differs(sentence: str) -> bool:
            places = [found.index(name) for name in names if name in (found := text_matching.words(sentence))]
            return places != sorted(places) and text_matching.names_agent(sentence) == text_matching.names_agent(clause)

        return all(map(differs, holding))
