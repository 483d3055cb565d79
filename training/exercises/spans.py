"""Self-supervised questions over prose: select a span of a sentence, and ask for it with the sentence's other words.

Unlike templates, they train the model to find, in any prose, the sentence that shares the question's words, and to
answer with the part that is missing from the question.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from rag.interfaces import Language
from training.exercises.exercise import Question
from training.exercises.lexicon import words as table
from training.exercises.prose import ProseDocument

_WORD = re.compile(r"\S+")
_YEAR = re.compile(r"1[0-9]{3}|20[0-9]{2}")
_STOPWORDS = frozenset(
    table(
        "o a os as um uma de do da dos das em no na nos nas por pela pelo para com que se ao à e ou é são foi "
        "the an of in on by for with that to at from and or is are was were it its this"
    )
)
_ARTICLES = frozenset(table("o a os as um uma the an seu sua its"))
_COPULAS = frozenset(table("é são foi era foram eram significa chama-se is are was were means"))
_VERBS = frozenset(
    table(
        "tem têm usa usam fica ficam guarda recebe devolve mede contém permite serve indica mostra vale leva "
        "lê cria criou fundou escreveu inventou descobriu publicou venceu calcula divide evita reduz responde "
        "espera envia roda pode deve precisa cabe dura ocupa aceita exige produz cobre nasceu morreu começa "
        "começou termina ocorre vive existe depende mantém traz faz has have uses use takes holds returns "
        "keeps stores measures contains allows serves shows gives reads creates created founded wrote "
        "invented discovered published won computes splits avoids reduces answers waits sends runs can must "
        "needs lasts costs accepts requires produces covers began ended lives depends makes became lies flows "
        "tells decides said described"
    )
)
_QUESTION_WORDS: dict[Language, dict[str, tuple[str, ...]]] = {
    "pt": {
        "who": ("quem", "quem", "que pessoa", "por quem", "qual"),
        "where": ("onde", "em que lugar", "em que cidade", "de onde"),
        "when": ("quando", "em que ano", "em que data"),
        "number": ("quanto", "quantos", "quantas", "qual é o número de", "qual é o valor de"),
        "what": ("o que", "qual", "qual é", "que", "o quê", "como se chama", "quais são", "o que é"),
        "why": ("por que", "por quê", "para que", "para que serve"),
        "is": ("o que é", "qual é", "o que são", "o que significa", "quem é", "o que foi"),
    },
    "en": {
        "who": ("who", "who", "which person", "by whom", "what"),
        "where": ("where", "in which place", "in which city", "from where"),
        "when": ("when", "in what year", "in which year", "on what date"),
        "number": ("how many", "how much", "what number of", "how long", "how large is"),
        "what": ("what", "which", "what is", "what does", "what are", "what kind of"),
        "why": ("why", "what for", "for what"),
        "is": ("what is", "what are", "who is", "who was", "what does mean", "what was"),
    },
}


@dataclass(frozen=True, slots=True)
class SentenceSpan:
    """Words `start` to `end` of a sentence, without outer punctuation, and the kind of question they answer."""

    start: int
    end: int
    text: str
    kind: str


def _is_number(word: str) -> bool:
    return word[0].isdigit()


def _strip(text: str) -> str:
    text = text.strip(" ,.;:!?\"“”'")
    return text.strip("()") if text.count("(") != text.count(")") else text


def spans(words: Sequence[str]) -> list[SentenceSpan]:
    """The spans of a sentence that a question could ask for: names, numbers, predicates, subjects, reasons."""
    found = [*_numbers(words), *_names(words), *_predicates(words), *_tails(words)]
    unique = {
        (span.start, span.end): span
        for span in found
        if span.text and span.end - span.start < len(words) and span.text.lower() not in _STOPWORDS | _VERBS
    }
    return list(unique.values())


def _make_span(words: Sequence[str], start: int, end: int, kind: str) -> SentenceSpan:
    return SentenceSpan(start, end, _strip(" ".join(words[start:end])), kind)


def _clause_end(words: Sequence[str], start: int) -> int:
    for index in range(start, len(words)):
        if words[index][-1] in ",;:.":
            return index + 1
    return len(words)


def _numbers(words: Sequence[str]) -> list[SentenceSpan]:
    found = []
    for index, word in enumerate(words):
        if not _is_number(word):
            continue
        year = bool(_YEAR.fullmatch(_strip(word)))
        end = index + 1
        if not year and word[-1] not in ",;:.)" and end < len(words) and words[end].lower() not in _STOPWORDS | _VERBS:
            end += 1
        found.append(_make_span(words, index, end, "when" if year else "number"))
        # "21 de abril de 1960" and "23 June 1912" are one answer.
        date = re.match(r"\d{1,2} (?:de )?[A-Za-zç]+ (?:de )?\d{4}\b", " ".join(words[index : index + 5]))
        if date:
            found[-1] = _make_span(words, index, index + len(date.group().split()), "when")
    return found


def _names(words: Sequence[str]) -> list[SentenceSpan]:
    found = []
    index = 0
    while index < len(words):
        if not words[index].strip('("“')[:1].isupper() or (index == 0 and words[0].lower() in _STOPWORDS):
            index += 1
            continue
        end = index + 1
        while (
            end < len(words)
            and words[end - 1][-1] not in ",;:.)"
            and (
                words[end][0].isupper()
                or (
                    words[end] in {"de", "da", "do", "dos", "of"}
                    and end + 1 < len(words)
                    and words[end + 1][0].isupper()
                )
            )
        ):
            end += 1
        before = words[index - 1].lower() if index else ""
        kind = (
            "where"
            if before in {"em", "no", "na", "in", "at"}
            else "who"
            if before in {"por", "by", "pelo", "pela"}
            else "what"
        )
        if index == 0 and end < len(words) and words[end].lower() in _VERBS:
            kind = "who"
        found.append(_make_span(words, index, end, kind))
        index = end
    return found


def _predicates(words: Sequence[str]) -> list[SentenceSpan]:
    """Subject and predicate of the sentence's first verb."""
    for index, word in enumerate(words[:-1]):
        verb = word.lower().strip(",")
        if index and (verb in _COPULAS or verb in _VERBS):
            end = _clause_end(words, index + 1)
            copula = verb in _COPULAS
            first = index + 1
            found = [
                _make_span(words, first, end, "is" if copula else "what"),
                _make_span(words, first, len(words), "is" if copula else "what"),
            ]
            if words[first].lower() in _ARTICLES and first + 1 < end:
                found.append(_make_span(words, first + 1, end, "is" if copula else "what"))
            if words[0].lower() not in {"ele", "ela", "it", "he", "she", "isso", "this", "they", "eles"}:
                start = 1 if words[0].lower() in _ARTICLES and index > 1 else 0
                found.append(_make_span(words, start, index, "what"))
            return found
    return []


def _tails(words: Sequence[str]) -> list[SentenceSpan]:
    """The text after a preposition or a causal conjunction, to the end of its clause."""
    found = []
    for index, word in enumerate(words[1:-1], start=1):
        low = word.lower()
        if low in {"porque", "because"}:
            found.append(_make_span(words, index + 1, len(words), "why"))
        elif low in {"para", "to", "for"}:
            found.append(_make_span(words, index + 1, _clause_end(words, index + 1), "why"))
        elif low in {"de", "of", "com", "with", "por", "by", "entre", "between"}:
            found.append(_make_span(words, index + 1, _clause_end(words, index + 1), "what"))
        elif low in {"em", "no", "na", "in", "on", "at"}:
            found.append(_make_span(words, index + 1, _clause_end(words, index + 1), "where"))
    return [span for span in found if span.end - span.start <= 8]


def _inflect(rng: Random, word: str) -> str:
    """The word, sometimes with another ending, as in a question's inflection."""
    if len(word) < 5 or not word.isalpha() or rng.random() > 0.12:
        return word
    return rng.choice((word[:-1], word + "s", word[:-2], word[:-1] + "r", word + "d"))


def ask(rng: Random, document: ProseDocument) -> Question | None:
    """A question over one random sentence of the document, or None if that sentence has no suitable span."""
    sentence = rng.choice(document.sentences)
    words = _WORD.findall(sentence)
    choices = [span for span in spans(words) if 1 <= span.end - span.start <= 14]
    if not choices:
        return None
    # Real questions mostly ask for short spans, so long ones are rarer.
    span = rng.choices(choices, weights=[1.0 if span.end - span.start <= 5 else 0.4 for span in choices])[0]
    # Half of the questions keep the clause's words in order, like a real question; half are noisier.
    plain = rng.random() < 0.5
    keep = 1.0 if plain else rng.uniform(0.55, 1.0)
    # Words near the span are the most specific; in a long sentence the distant ones are dropped.
    reach = rng.choice((5, 8, 12)) if plain else rng.choice((4, 6, 10, 30))
    rest = []
    for index, word in enumerate(words):
        if span.start <= index < span.end or not (span.start - reach <= index < span.end + reach):
            continue
        clean = _strip(word)
        if plain and index == span.start - 1 and clean.lower() in _STOPWORDS:
            continue  # the question word replaces the copula or preposition before the span
        if clean and rng.random() < (keep if plain or clean.lower() not in _STOPWORDS else keep * 0.8):
            lowered = clean if index or clean.lower() not in _STOPWORDS else clean.lower()
            rest.append(lowered if plain else _inflect(rng, lowered))
    if not any(word.lower() not in _STOPWORDS for word in rest):
        return None
    if not plain and rng.random() < 0.4 and len(rest) > 2:
        cut = rng.randint(1, len(rest) - 1)
        rest = rest[cut:] + rest[:cut]
    if rng.random() < 0.15:
        rest.append(("em " if document.language == "pt" else "in ") + document.title)
    kind = span.kind
    if span.text[0].isdigit():
        kind = "when" if _YEAR.search(span.text) else "number"
    opener = rng.choice(_QUESTION_WORDS[document.language][kind])
    question = f"{opener} {' '.join(rest)}"
    if not plain and rng.random() < 0.15:
        question = f"{' '.join(rest)} {opener}"
    question = question[0].upper() + question[1:] + ("?" if rng.random() < 0.93 else "")
    return Question(question, span.text, document.language)
