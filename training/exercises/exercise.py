"""What the model is trained on: passages, and several questions over the same passages."""

from __future__ import annotations

from dataclasses import dataclass

from rag.answering.prompt import NOT_IN_PASSAGES, write_messages
from rag.interfaces import Language, Message, Passage


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the span of a passage that answers it; `answer` None: the passages do not tell."""

    text: str
    answer: str | None
    language: Language

    @property
    def reply(self) -> str:
        """What the model should say."""
        return NOT_IN_PASSAGES[self.language] if self.answer is None else self.answer


@dataclass(frozen=True, slots=True)
class Exercise:
    """Passages and the questions asked over them. Every question is answered on its own, as in serving.

    `earlier` are turns of the conversation that came before, without the passages that they had.
    """

    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]
    earlier: tuple[Question, ...] = ()

    def messages(self, question: Question) -> list[Message]:
        """The conversation that serving would write for this question."""
        history = [
            message
            for turn in self.earlier
            for message in (Message("user", turn.text), Message("assistant", turn.reply))
        ]
        return write_messages(question.text, self.passages, question.language, history)


def passage(title: str, text: str) -> Passage:
    """A passage as the retriever hands it on, less what the prompt does not show."""
    return Passage(id=title, title=title, text=text, score=1.0)
