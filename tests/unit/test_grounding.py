"""Grounding: an answer is supported by the passages that hold its words, and by no others."""

from __future__ import annotations

import pytest

from rag.grounding import ground
from rag.seams import Passage

PASSAGES = [
    Passage("a", "Brasília", "Brasília é a capital do Brasil desde 21 de abril de 1960.", 1.0),
    Passage("b", "São Paulo", "São Paulo é a cidade mais populosa do Brasil.", 0.5),
]


@pytest.mark.parametrize(
    ("answer", "cited"),
    [
        ("Brasília", {0}),
        ("brasilia.", {0}),
        ("21 de abril de 1960", {0}),
        ("São Paulo", {1}),
        ("É São Paulo [2]", {1}),
        ("A capital é Brasília, desde abril de 1960", {0}),
    ],
)
def test_an_answer_is_found_in_its_passage(answer: str, cited: set[int]) -> None:
    found = ground(answer, PASSAGES)
    assert found.grounded
    assert found.cited == cited


@pytest.mark.parametrize("answer", ["Buenos Aires", "desde 1961", "", "é a de", "As passagens não dizem."])
def test_an_answer_that_stands_nowhere_is_not_grounded(answer: str) -> None:
    assert not ground(answer, PASSAGES).grounded


def test_a_marker_cites_only_a_passage_that_exists() -> None:
    assert ground("Lima [2] [7]", PASSAGES).cited == {1}
    assert not ground("Lima [2]", PASSAGES).grounded


def test_without_passages_nothing_is_grounded() -> None:
    assert not ground("Brasília", []).grounded
