"""Whether an answer is supported by its passages, and by which of them.

A measure by words, without a model, of support and not of truth. A verbatim span scores 1. Otherwise each clause of the
answer needs two neighbouring sentences of a passage that, with its title, contain three quarters of the clause's
content words, in this or a related form, and all of its names and numbers. The passage's most similar clause must be
negated as the answer's is, and its names must be in the same order, unless exactly one of the two names the agent
("by X"). benchmarks/groundedness.py measures it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rag.answering import text_matching
from rag.answering.prompt import NOT_IN_PASSAGES
from rag.answering.text_matching import ContentWord, Vocabulary
from rag.interfaces import Passage

# A passage that holds at least this share of a clause's content words supports it.
_SUPPORT = 0.75
# What is read of an answer. No real one has more; one that has is not grounded, since not all of it was looked up.
_MAX_CHARACTERS, _MAX_CLAUSES = 20_000, 60

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

    An answer is grounded if every clause is.
    """

    grounded: bool
    score: float
    cited: frozenset[int]


def ground(answer: str, passages: Sequence[Passage]) -> Grounding:
    """Find `answer` in `passages`. Markers like [2] in the answer also cite, if that passage exists.

    "The passages do not say" makes no claim, so it is neither grounded nor cited.
    """
    whole_answer, answer = answer, answer[:_MAX_CHARACTERS]
    claim = text_matching.plain(_LEAD_IN.sub("", _MARKER.sub(" ", answer)))
    answer_words = text_matching.words(claim)
    is_refusal = any(answer_words == text_matching.words(refusal) for refusal in NOT_IN_PASSAGES.values())
    if not passages or not answer_words or is_refusal:
        return Grounding(grounded=False, score=0.0, cited=frozenset())
    marked = {int(number) - 1 for number in _MARKER.findall(answer)} & set(range(len(passages)))
    read = [_ParsedPassage(passage) for passage in passages]
    verbatim = {place for place, passage in enumerate(read) if passage.contains_verbatim(answer_words)}
    if verbatim and answer == whole_answer:
        return Grounding(grounded=True, score=1.0, cited=frozenset(marked | verbatim))
    clauses = text_matching.clauses(claim, least=2)
    distinct = list(dict.fromkeys(clauses))[:_MAX_CLAUSES]
    supported = {clause: [passage.support(clause) for passage in read] for clause in distinct}
    support = [supported[clause] for clause in clauses if clause in supported]
    read_whole = answer == whole_answer and len(support) == len(clauses)
    whole = [min(shares) for shares in zip(*support, strict=True)]
    if max(whole) >= _SUPPORT:  # one passage supports every clause
        support = [whole]
    best = [max(shares) for shares in support]
    supporting = {
        place for shares in support for place, share in enumerate(shares) if share >= _SUPPORT and share == max(shares)
    }
    grounded = min(best) >= _SUPPORT and read_whole
    cited = frozenset(marked | supporting) if grounded else frozenset(marked)
    return Grounding(grounded, round(sum(best) / len(best), 3), cited)


class _ParsedPassage:
    """A passage, split for look-ups."""

    def __init__(self, passage: Passage) -> None:
        self._title, self._text = text_matching.plain(passage.title), text_matching.plain(passage.text)

    def contains_verbatim(self, span: Sequence[str]) -> bool:
        """Whether it contains these words in a row."""
        return f" {' '.join(span)} " in f" {' '.join(text_matching.words(f'{self._title} {self._text}'))} "

    @cached_property
    def _sentences(self) -> list[tuple[str, Vocabulary]]:
        return [(sentence, Vocabulary(sentence)) for sentence in text_matching.sentences(self._text)]

    @cached_property
    def _clauses(self) -> list[tuple[str, Vocabulary]]:
        return [(clause, Vocabulary(clause)) for clause in text_matching.clauses(self._text)]

    @cached_property
    def _windows(self) -> list[Vocabulary]:
        """Each sentence with the one before it and the title, which often name its subject."""
        sentences = text_matching.sentences(self._text)
        return [
            Vocabulary(f"{self._title} {before} {sentence}")
            for before, sentence in zip(["", *sentences], sentences or [""], strict=False)
        ]

    def support(self, clause: str) -> float:
        """The share of the clause's content words that it contains; 0 where it contradicts the clause."""
        terms = text_matching.content(clause)
        fixed = [term for term in terms if term.fixed]
        windows = [window for window in self._windows if window.count(fixed) == len(fixed)]
        if not terms or not windows:
            return 0.0
        share = max(window.count(terms) for window in windows) / len(terms)
        if share < _SUPPORT or self._is_opposite(clause, terms) or self._has_other_roles(clause, terms):
            return 0.0
        return 0.95 * share  # words in any order never count as much as the verbatim span

    def _is_opposite(self, clause: str, terms: Sequence[ContentWord]) -> bool:
        counts = [vocabulary.count(terms) for _, vocabulary in self._clauses]
        most = max(counts, default=0)
        nearest = [text for (text, _), count in zip(self._clauses, counts, strict=True) if count == most]
        return bool(nearest) and all(
            text_matching.is_negated(text) != text_matching.is_negated(clause) for text in nearest
        )

    def _has_other_roles(self, clause: str, terms: Sequence[ContentWord]) -> bool:
        """Whether every sentence with all terms has the names in another order, and an agent if the clause has one."""
        names = [term.text for term in terms if term.capital]
        containing = [text for text, vocabulary in self._sentences if vocabulary.count(terms) == len(terms)]
        if len(set(names)) < 2 or not containing:
            return False

        def differs(sentence: str) -> bool:
            places = [found.index(name) for name in names if name in (found := text_matching.words(sentence))]
            return places != sorted(places) and text_matching.has_agent(sentence) == text_matching.has_agent(clause)

        return all(map(differs, containing))
