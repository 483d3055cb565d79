"""The training curriculum: copying and single facts first, then more facts, then whole documents as in serving.

A stage lasts until its target loss is reached, and at most for its share of the training. All randomness comes from the
generator that is passed in, so the exercises depend only on seed and stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from transformers import PreTrainedTokenizerFast

from rag.interfaces import Language
from training.exercises import facts, lexicon, prose, spans
from training.exercises.exercise import Exercise, Question, passage
from training.exercises.packing import Packed
from training.exercises.prose import ProseDocument
from training.exercises.text_questions import TextQuestions
from training.exercises.texts import Texts
from training.exercises.tokenizer import SPECIAL_TOKENS


@dataclass(frozen=True, slots=True)
class Stage:
    """How exercises are drawn; the next stage begins at the answer loss `loss`, or at the progress `latest` (0 to 1).

    The shares are those of plain copying, spans of prose, questions over the corpus, and questions over other texts;
    the remainder are generated facts. `whole`: the share of questions whose documents are shown completely; the others
    show a few sentences, which takes half the compute.
    """

    passages: int
    facts: int
    copying_share: float
    prose_share: float
    corpus_share: float
    reading_share: float
    whole: float
    unanswerable: float
    batch_tokens: int
    loss: float
    latest: float


STAGES: tuple[Stage, ...] = (
    Stage(1, 1, 0.15, 0.00, 0.00, 0.00, 0.0, 0.00, 2048, 0.60, 0.05),
    Stage(1, 3, 0.08, 0.05, 0.00, 0.00, 0.0, 0.05, 3072, 0.50, 0.25),
    Stage(2, 3, 0.03, 0.06, 0.06, 0.12, 0.3, 0.12, 4096, 0.45, 0.45),
    Stage(4, 3, 0.01, 0.06, 0.16, 0.18, 0.5, 0.18, 4096, 0.30, 0.70),
    Stage(4, 3, 0.00, 0.03, 0.28, 0.18, 0.7, 0.22, 4096, 0.00, 2.00),
)
# The passages are processed again for each question, and few exercises with many passages are enough to learn from.
_PASSAGES_WEIGHTS = (5, 3, 2, 1)
_QUESTIONS = 4
# From this stage on, some questions follow an earlier turn.
_CONVERSING = 3


class Curriculum:
    """Draws the exercises of each stage.

    `corpus`: the documents that are served, with questions; `reading`: any other texts with questions. Both may be
    empty.
    """

    def __init__(self, corpus: Texts, tokenizer: PreTrainedTokenizerFast, reading: Texts = ((), {})) -> None:
        (documents, questions), (texts, text_questions) = corpus, reading
        self.documents = [*documents, *texts]
        self._tokenizer = tokenizer
        self._corpus = TextQuestions(documents, questions, prose.nearest(documents, 6)) if questions else None
        self._reading = TextQuestions(texts, text_questions, prose.nearest(texts, 6)) if text_questions else None
        self._sentences: dict[Language, tuple[str, ...]] = {
            language: tuple(
                s for document in self.documents if document.language == language for s in document.sentences
            )
            for language in facts.LANGUAGES
        }

    def draw(self, rng: Random, stage: int) -> Exercise | Packed:
        """The next exercise of a stage, with a few questions, or a sequence to copy."""
        drawn = self._draw(rng, stage)
        if not isinstance(drawn, Exercise):
            return drawn
        questions = tuple(rng.sample(drawn.questions, min(_QUESTIONS, len(drawn.questions))))
        if stage >= _CONVERSING and len(questions) > 1 and rng.random() < 0.1:
            return replace(drawn, earlier=questions[:1], questions=questions[1:])
        return replace(drawn, questions=questions)

    def _draw(self, rng: Random, stage: int) -> Exercise | Packed:
        plan = STAGES[stage]
        passages, per_passage = plan.passages, plan.facts
        # Some easier ones in every stage, so that earlier skills and short prompts are not forgotten.
        if rng.random() < 0.2:
            passages, per_passage = rng.randint(1, passages), rng.randint(1, per_passage)
        choice = rng.random()
        if choice < plan.copying_share:
            return copying(rng, self._tokenizer)
        choice -= plan.copying_share
        late = stage >= 2
        shown = rng.choices(range(1, passages + 1), weights=_PASSAGES_WEIGHTS[:passages])[0]
        if choice < plan.corpus_share:
            if self._corpus:
                return self._corpus.exercise(rng, passages=shown, whole=rng.random() < plan.whole)
        elif choice < plan.corpus_share + plan.reading_share:
            if self._reading:
                return self._reading.exercise(rng, passages=shown, whole=rng.random() < plan.whole)
        elif choice < plan.corpus_share + plan.reading_share + plan.prose_share:
            exercise = self.prose_exercise(rng, passages=shown, sentences=per_passage, late=late)
            if exercise.questions:
                return exercise
        language = rng.choice(facts.LANGUAGES)
        return facts.exercise(
            rng,
            passages=shown,
            facts=rng.randint(1, per_passage),
            questions=_QUESTIONS,
            filler=self._sentences[language] if late and rng.random() < 0.4 else (),
            unanswerable=plan.unanswerable,
        )

    def prose_exercise(self, rng: Random, *, passages: int, sentences: int, late: bool) -> Exercise:
        """Questions for spans of prose: of corpus documents, whole ones if `late`, or of invented ones."""
        language = rng.choice(facts.LANGUAGES)
        pool = [document for document in self.documents if document.language == language]
        chosen: list[ProseDocument] = []
        for _ in range(passages):
            if pool and rng.random() < (0.8 if late else 0.5):
                document = rng.choice(pool)
                if not late or rng.random() < 0.5:
                    start = rng.randrange(len(document.sentences))
                    document = document.excerpt(start, sentences)
            else:
                document = prose.invented_document(rng, language, sentences=rng.randint(1, sentences + 1))
            if document.title not in {other.title for other in chosen}:
                chosen.append(document)
        asked: list[Question] = []
        for _ in range(6):
            question = spans.ask(rng, rng.choice(chosen))
            if question and question.text not in {other.text for other in asked}:
                asked.append(question)
        unseen = rng.choice(pool) if pool else None  # a document that is not shown, for an unanswerable question
        if late and unseen and unseen.title not in {document.title for document in chosen} and rng.random() < 0.7:
            question = spans.ask(rng, unseen)
            together = " ".join(document.text for document in chosen)
            if question and question.answer and question.answer not in together:
                asked.append(Question(question.text, None, language))
        rng.shuffle(chosen)
        return Exercise(tuple(passage(document.title, document.text) for document in chosen), tuple(asked))


def copying(rng: Random, tokenizer: PreTrainedTokenizerFast) -> Packed:
    """Random tokens or invented names, repeated three times: from the second time on, each token is predictable."""
    if rng.random() < 0.5:
        # Frequent tokens come first in the vocabulary; log-uniform draws keep them frequent.
        row = [
            min(len(tokenizer) - 1, int(len(SPECIAL_TOKENS) + len(tokenizer) ** rng.random()))
            for _ in range(rng.randint(8, 32))
        ]
    else:
        language = rng.choice(facts.LANGUAGES)
        names = " ".join(lexicon.person(rng, language).text for _ in range(rng.randint(1, 4)))
        row = tokenizer(" " + names, add_special_tokens=False)["input_ids"]
    return Packed(row * 3, answer_from=len(row) + 1)


def tokenizer_texts(rng: Random, documents: Sequence[ProseDocument], exercises: int) -> list[str]:
    """Text for training the tokenizer: the documents, twice, and generated exercises in the format of serving."""
    texts = [f"{document.title}\n{document.text}" for document in documents] * 2
    for _ in range(exercises):
        exercise = facts.exercise(rng, passages=2, facts=3, questions=3)
        texts += [exercise.messages(question)[-1].content + "\n " + question.reply for question in exercise.questions]
        texts.append(lexicon.person(rng, rng.choice(facts.LANGUAGES)).text)
    return texts
