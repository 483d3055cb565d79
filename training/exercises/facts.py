"""Exercises over generated facts: documents about invented subjects, with questions about them (see relations.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rag.interfaces import Language, Passage
from training.exercises import lexicon
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.lexicon import Name
from training.exercises.relation_rows import SUBJECTS
from training.exercises.relations import RELATIONS, Relation, capitalise, fill

LANGUAGES: tuple[Language, Language] = ("pt", "en")
_OPENERS: dict[Language, tuple[str, ...]] = {
    "pt": (
        "hoje ",
        "segundo os registros, ",
        "desde então ",
        "além disso, ",
        "na prática, ",
        "por isso ",
        "em geral, ",
    ),
    "en": ("today ", "according to the records, ", "since then ", "moreover, ", "in practice, ", "so ", "in general, "),
}
_TAILS: dict[Language, tuple[str, ...]] = {
    "pt": (" desde {year}", ", segundo {person}", ", o que pouca gente sabe", ", e isso não mudou", ", perto de {city}",
           " (ver {proper})", ", como se vê em {city}", "; antes era outro", ", e não {proper}"),
    "en": (" since {year}", ", according to {person}", ", which few people know", ", and this has not changed",
           ", near {city}", " (see {proper})", ", as one sees in {city}", "; it was another before",
           ", and not {proper}"),
}  # fmt: skip
_PRONOUNS: dict[Language, dict[str, str]] = {
    "pt": {"m": "ele", "f": "ela", "n": "ele"},
    "en": {"m": "it", "f": "it", "n": "it"},
}
_QUESTION_OPENERS: dict[Language, tuple[str, ...]] = {
    "pt": ("me diga: ", "você sabe ", "segundo o texto, ", "por favor, ", "afinal, ", "e "),
    "en": ("tell me: ", "do you know ", "according to the text, ", "please, ", "and ", "so "),
}
_BY_SUBJECT: dict[str, tuple[Relation, ...]] = {
    kind: tuple(relation for relation in RELATIONS if relation.subject == kind) for kind in SUBJECTS
}


@dataclass(frozen=True, slots=True)
class Fact:
    """A statement of a document: relation, subject and value."""

    relation: Relation
    subject: Name
    value: Name


def _sentence(rng: Random, language: Language, fact: Fact, *, continued: bool) -> str:
    phrasing = rng.choice(fact.relation.phrasings[language].statements)
    subject = fact.subject
    if continued and rng.random() < 0.5:
        # In later sentences a pronoun may replace the subject.
        if phrasing.startswith(("{o_s} ", "{s} ")):
            phrasing = _PRONOUNS[language][subject.gender] + " " + phrasing.split(" ", 1)[1]
        elif phrasing.startswith("the {s} "):
            phrasing = "it " + phrasing.split(" ", 2)[2]
    text = fill(phrasing, subject, fact.value)
    if rng.random() < 0.12:
        text = rng.choice(_OPENERS[language]) + text
    if rng.random() < 0.2:
        text += rng.choice(_TAILS[language]).format(
            year=lexicon.year(rng, language).text,
            person=lexicon.person(rng, language).text,
            city=lexicon.city(rng, language).text,
            proper=lexicon.proper(rng, language).text,
        )
    return capitalise(text)


def _join(rng: Random, language: Language, sentences: Sequence[str]) -> str:
    text = ""
    for sentence in sentences:
        if not text:
            text = sentence
        elif rng.random() < 0.1 and sentence.split(" ", 1)[0].lower() in {"o", "a", "ele", "ela", "the", "it"}:
            text += (", e " if language == "pt" else ", and ") + sentence[0].lower() + sentence[1:]
        else:
            text += rng.choice((". ", ". ", ". ", ". ", ". ", ".\n", ".\n\n", "; ")) + sentence
    return text + "."


def _question(rng: Random, language: Language, fact: Fact, *, answerable: bool, backward: bool) -> Question:
    phrasing = fact.relation.phrasings[language]
    backward = backward and bool(phrasing.backward)
    text = fill(rng.choice(phrasing.backward if backward else phrasing.forward), fact.subject, fact.value)
    if rng.random() < 0.06:
        text = rng.choice(_QUESTION_OPENERS[language]) + text
    form = rng.random()
    if form < 0.12:
        text = text.rstrip("?.")
    text = text if form < 0.06 else capitalise(text)
    answer = (fact.subject if backward else fact.value).text
    return Question(text, answer if answerable else None, language)


def _document(
    rng: Random, language: Language, kind: str, shared: Sequence[Relation], facts: int, filler: Sequence[str]
) -> tuple[Passage, list[Fact], list[Fact]]:
    """A passage on one or more subjects of `kind`, its facts, and a fact about its subject that it does not state."""
    unstated: list[Fact] = []
    if rng.random() < 0.75:
        subject = SUBJECTS[kind](rng, language)
        relations = rng.sample(shared, rng.randint(max(1, len(shared) - 1), len(shared)))
        stated = [Fact(relation, subject, relation.value(rng, language)) for relation in relations]
        others = [relation for relation in _BY_SUBJECT[kind] if relation not in relations]
        unstated = [Fact(rng.choice(others), subject, Name(""))] if others else []
        title = subject.text if rng.random() < 0.7 else lexicon.thing(rng, language).text.capitalize()
    else:
        relation = rng.choice(shared)
        stated = [Fact(relation, SUBJECTS[kind](rng, language), relation.value(rng, language)) for _ in range(facts)]
        title = rng.choice((lexicon.thing(rng, language).text.capitalize(), lexicon.proper(rng, language).text))
    one_subject = len({fact.subject for fact in stated}) == 1
    sentences = [
        _sentence(rng, language, fact, continued=one_subject and number > 0) for number, fact in enumerate(stated)
    ]
    for extra in rng.sample(filler, min(len(filler), rng.choice((0, 0, 1, 2)))):
        sentences.insert(rng.randint(1, len(sentences)), extra.rstrip("."))
    return passage(title, _join(rng, language, sentences)), stated, unstated


def exercise(
    rng: Random,
    *,
    passages: int,
    facts: int,
    questions: int,
    filler: Sequence[str] = (),
    unanswerable: float = 0.12,
    cross_language: float = 0.05,
) -> Exercise:
    """`passages` documents of up to `facts` facts each, mostly on subjects of one kind, so that they are distractors.

    `filler`: sentences to insert between the facts. `unanswerable`: the share of questions for a fact that no passage
    states, some of them about a subject that a passage describes. `cross_language`: the share of exercises whose
    questions are in the other language.
    """
    language = rng.choice(LANGUAGES)
    kind = rng.choice(tuple(SUBJECTS))
    stated: list[Fact] = []
    documents: list[Passage] = []
    missing: list[Fact] = []
    shared = rng.sample(_BY_SUBJECT[kind], min(len(_BY_SUBJECT[kind]), facts))
    for _ in range(passages):
        if rng.random() < 0.25:
            kind = rng.choice(tuple(SUBJECTS))
            shared = rng.sample(_BY_SUBJECT[kind], min(len(_BY_SUBJECT[kind]), facts))
        document, here, unstated = _document(rng, language, kind, shared, facts, filler)
        documents.append(document)
        stated += here
        missing += unstated
    rng.shuffle(documents)
    # Unanswerable: a stated relation of a new subject, or an unstated relation of a described subject.
    relation = rng.choice(stated).relation
    missing.append(Fact(relation, SUBJECTS[relation.subject](rng, language), relation.value(rng, language)))

    # A fact may be asked several times, in different words.
    asked: dict[str, Question] = {}
    asking = language if rng.random() >= cross_language else LANGUAGES[language == "pt"]
    for fact in rng.sample(stated * 3, min(3 * len(stated), questions)):
        if rng.random() < unanswerable:
            question = _question(rng, asking, rng.choice(missing), answerable=False, backward=False)
        else:
            unique = [other.value.text for other in stated].count(fact.value.text) == 1
            question = _question(rng, asking, fact, answerable=True, backward=unique and rng.random() < 0.25)
        asked.setdefault(question.text.casefold().rstrip("?"), question)
    return Exercise(tuple(documents), tuple(asked.values()))
