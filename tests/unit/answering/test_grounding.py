"""Grounding: an answer is supported by the passages that contain its words, and by no others."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.answering.grounding import ground
from rag.interfaces import Passage

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
def test_an_answer_found_in_no_passage_is_not_grounded(answer: str) -> None:
    assert not ground(answer, PASSAGES).grounded


LOVELACE = Passage(
    "c", "Ada Lovelace", "She was born in 1815. Her notes were never printed twice, by any account.", 1.0
)
LEI = Passage("d", "Lei Áurea", "A Lei Áurea aboliu a escravidão no Brasil em 13 de maio de 1888.", 1.0)
WAR = Passage("e", "The war", "It began when Germany invaded Poland. Uranus was discovered by William Herschel.", 1.0)
ITAIPU = Passage("f", "Itaipu", "Itaipu tem doze turbinas e 14.000 megawatts; custou 1,5 milhão por dia.", 1.0)


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("A resposta é: 13/05/1888", LEI),
        ("According to the passage, Ada Lovelace was born in 1815.", LOVELACE),
        ("A abolição da escravidão no Brasil ocorreu em 13 de maio de 1888.", LEI),
        ("William Herschel discovered Uranus.", WAR),
        ("Itaipu has 12 turbines.", ITAIPU),
        ("São 14000 megawatts", ITAIPU),
        ("Custou 1500000 por dia", ITAIPU),
    ],
)
def test_paraphrases_are_grounded(answer: str, passage: Passage) -> None:
    assert ground(answer, [passage]).grounded


@pytest.mark.parametrize(
    ("answer", "passage"),
    [
        ("Her notes were printed twice.", LOVELACE),
        ("A Lei Áurea não aboliu a escravidão no Brasil.", LEI),
        ("Poland invaded Germany.", WAR),
        ("Uranus was discovered by Galileo Galilei.", WAR),
        ("A Lei Áurea aboliu a escravidão no Brasil em 13 de maio de 1889.", LEI),
        ("A Lei Áurea aboliu a escravidão no Brasil, com grandes festas populares.", LEI),
    ],
)
def test_a_wrong_negation_role_name_or_number_or_an_extra_clause_is_not_grounded(answer: str, passage: Passage) -> None:
    found = ground(answer, [passage])
    assert not found.grounded
    assert found.cited == frozenset()


def test_clauses_supported_by_different_passages_cite_both() -> None:
    found = ground("Ada Lovelace was born in 1815, and Itaipu has 12 turbines.", [LOVELACE, LEI, ITAIPU])
    assert found.grounded
    assert found.cited == {0, 2}


def test_words_of_two_passages_in_one_clause_are_not_grounded() -> None:
    assert not ground("Ada Lovelace aboliu a escravidão no Brasil", [LOVELACE, LEI]).grounded


def test_a_marker_cites_only_a_passage_that_exists() -> None:
    assert ground("Lima [2] [7]", PASSAGES).cited == {1}
    assert not ground("Lima [2]", PASSAGES).grounded


def test_without_passages_nothing_is_grounded() -> None:
    assert not ground("Brasília", []).grounded


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80) | st.from_regex(r"(\w{1,5}[ ,.;0-9½/ªº-]{1,4}){1,9}"), st.text(max_size=80))
def test_no_text_breaks_the_check(answer: str, text: str) -> None:
    found = ground(answer, [Passage("x", "", text, 1.0), Passage("y", "Brasil", f"{answer} {text}", 1.0)])
    assert 0 <= found.score <= 1
    assert found.cited <= {0, 1}


@pytest.mark.parametrize(
    "answer",
    [
        "a. " * 33_000,
        "9" * 100_000,
        "1" + ",111" * 25_000,
        "1." * 50_000,
        "a," * 50_000,
        "Brasília foi fundada por Niemeyer em 1961. " * 2_300,
        "".join(f"Brasília tem {number} casas, e o Rio {number + 7} praias. " for number in range(2_200)),
    ],
    ids=["clauses without words", "a number", "a grouped number", "decimals", "commas", "a loop", "many clauses"],
)
def test_the_worst_text_is_judged_in_linear_time_and_what_was_not_read_is_not_grounded(answer: str) -> None:
    passages = [Passage(str(number), "Brasília", "Brasília é a capital do Brasil. " * 20, 0.5) for number in range(20)]
    assert not ground(answer, passages).grounded  # quadratic scanning would take minutes
