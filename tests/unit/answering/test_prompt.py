"""Prompts: within the budget, passages numbered, the question whole."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.answering.prompt import build, write_messages
from rag.errors import PromptTooLong
from rag.interfaces import Message, Passage


def words(messages: Sequence[Message]) -> list[int]:
    """A tokenizer of one token a word."""
    return [0] * sum(len(message.content.split()) for message in messages)


def passage(name: str, size: int) -> Passage:
    return Passage(name, name, " ".join(f"palavra{place}" for place in range(size)), 1.0)


def test_passages_are_numbered_in_their_order_and_the_question_comes_last() -> None:
    system, user = write_messages("Quem?", [passage("A", 2), passage("B", 2)], "pt")
    assert (system.role, user.role) == ("system", "user")
    assert user.content.index("[1] A") < user.content.index("[2] B") < user.content.index("Pergunta: Quem?")


def test_the_prompt_is_in_the_question_s_language() -> None:
    assert "Question: Who?" in write_messages("Who?", [passage("A", 2)], "en")[1].content


def test_without_passages_the_prompt_is_the_question() -> None:
    assert write_messages("Quem?", [], "pt") == [Message("user", "Quem?")]


def test_a_passage_too_long_for_the_budget_is_skipped_for_a_shorter_one() -> None:
    written = build(
        "Quem foi?",
        [passage("A", 30), passage("B", 500), passage("C", 30)],
        encode=words,
        max_prompt_tokens=120,
        language="pt",
    )
    assert [kept.title for kept in written.passages] == ["A", "C"]
    assert len(written.ids) <= 120


def test_the_best_passage_is_cut_at_a_word_if_none_fits_whole() -> None:
    written = build("Quem foi?", [passage("A", 500)], encode=words, max_prompt_tokens=60, language="pt")
    (kept,) = written.passages
    assert passage("A", 500).text.startswith(kept.text + " ")
    assert len(written.ids) == 60


def test_a_question_over_the_budget_is_refused_with_the_figures() -> None:
    with pytest.raises(PromptTooLong) as raised:
        build("palavra " * 70, [passage("A", 5)], encode=words, max_prompt_tokens=60, language="pt")
    assert (raised.value.value, raised.value.limit) == ("70 tokens", "60 tokens")


def test_history_comes_between_the_instructions_and_the_question() -> None:
    history = (Message("user", "Oi"), Message("assistant", "Olá"))
    assert [message.role for message in write_messages("Quem?", [passage("A", 2)], "pt", history)] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


@given(sizes=st.lists(st.integers(1, 200), max_size=8), budget=st.integers(2, 400))
def test_no_prompt_exceeds_its_budget_and_the_question_is_always_whole(sizes: list[int], budget: int) -> None:
    passages = [passage(str(place), size) for place, size in enumerate(sizes)]
    seen: list[Sequence[Message]] = []

    def encode(messages: Sequence[Message]) -> list[int]:
        seen.append(messages)
        return words(messages)

    written = build("Quem foi?", passages, encode=encode, max_prompt_tokens=budget, language="pt")
    assert len(written.ids) <= budget
    assert seen[-1][-1].content.endswith("Quem foi?")
