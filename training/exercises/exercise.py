"""The unit of training data: passages, and several questions over them."""

from __future__ import annotations

from dataclasses import dataclass

from rag.answering.prompt import NOT_IN_PASSAGES, write_messages
from rag.interfaces import Language, Message, Passage


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the span of a passage that answers it; `answer` None: unanswerable from the passages."""

    text: str
    answer: str | None
    language: Language

    @property
    def reply(self) -> str:
        """The reply to train on."""
        return NOT_IN_PASSAGES[self.language] if self.answer is None else self.answer


@dataclass(frozen=True, slots=True)
class Exercise:
    """Passages and the questions over them. Every question is a separate prompt, as in serving.

    `earlier`: preceding turns of the conversation, without their passages.
    """

    passages: tuple[Passage, ...]
    questions: tuple[Question, ...]
    earlier: tuple[Question, ...] = ()

    def messages(self, question: Question) -> list[Message]:
        """The messages that serving would send for this question."""
        history = [
            message
            for turn in self.earlier
            for message in (Message("user", turn.text), Message("assistant", turn.reply))
        ]
        return write_messages(question.text, self.passages, question.language, history)


def passage(title: str, text: str) -> Passage:
    """A passage with only the fields that the prompt shows."""
    return Passage(id=title, title=title, text=text, score=1.0)
