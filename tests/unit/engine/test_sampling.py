"""Sampling: each step does what its name says, and a seed repeats."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rag.engine.sampling import Draw, Sampler, choose
from rag.interfaces import Sampling

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -3.0])


def drawn(times: int, sampling: Sampling, prompt: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(sampling, prompt)
    return [sampler.draw(LOGITS).token for _ in range(times)]


def test_frequencies_follow_the_softmax_at_the_temperature() -> None:
    counts = Counter(drawn(4000, Sampling(max_new_tokens=1, temperature=0.8, seed=1)))
    expected = torch.softmax(LOGITS / 0.8, dim=-1)
    for token in range(5):
        assert counts[token] / 4000 == pytest.approx(float(expected[token]), abs=0.03)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(max_new_tokens=1, temperature=5, top_k=2, seed=1), {0, 1}),
        (Sampling(max_new_tokens=1, temperature=1, top_p=0.7, seed=1), {0, 1}),
        (Sampling(max_new_tokens=1, temperature=1, top_p=0.01, seed=1), {0}),
        (Sampling(max_new_tokens=1, temperature=1, min_p=0.2, seed=1), {0, 1, 2}),
        (Sampling(max_new_tokens=1, temperature=1, min_p=1.0, seed=1), {0}),
        (Sampling(max_new_tokens=1, temperature=1e-4, seed=1), {0}),
    ],
)
def test_the_filters_keep_exactly_the_tokens_they_should(sampling: Sampling, possible: set[int]) -> None:
    assert set(drawn(400, sampling)) == possible


def test_a_repetition_penalty_lowers_tokens_of_the_prompt_and_of_the_output() -> None:
    assert drawn(3, Sampling(max_new_tokens=1, repetition_penalty=10.0), prompt=(0,)) == [1, 2, 0]


def test_a_presence_penalty_counts_once_and_a_frequency_penalty_each_time() -> None:
    assert drawn(3, Sampling(max_new_tokens=1, presence_penalty=1.2)) == [0, 1, 0]
    assert drawn(4, Sampling(max_new_tokens=1, frequency_penalty=0.7)) == [0, 0, 1, 0]


def test_the_end_cannot_come_before_min_new_tokens() -> None:
    sampler = Sampler(Sampling(max_new_tokens=9, min_new_tokens=2, stop_ids=(1,)), end_ids=[0])
    assert [choose(LOGITS[None], [sampler])[0].token for _ in range(3)] == [2, 2, 0]  # type: ignore[union-attr]


def test_logprobs_are_the_model_s_own_whatever_the_temperature() -> None:
    sampler = Sampler(Sampling(max_new_tokens=1, temperature=3.0, seed=4, logprobs=2))
    draw = sampler.draw(LOGITS)
    expected = torch.log_softmax(LOGITS, dim=-1)
    assert draw.logprob == pytest.approx(float(expected[draw.token]))
    assert [top.token for top in draw.top] == [0, 1]
    assert [top.logprob for top in draw.top] == pytest.approx(expected[:2].tolist())


def test_a_row_without_finite_logits_gives_no_token_and_does_not_change_the_others() -> None:
    rows = torch.stack([LOGITS, torch.full((5,), float("nan")), torch.full((5,), float("-inf")), LOGITS])
    chosen = choose(rows, [Sampler(Sampling(max_new_tokens=1)) for _ in range(4)])
    assert [draw and draw.token for draw in chosen] == [0, None, None, 0]


@given(st.integers(0, 2**63 - 1), st.floats(0.1, 5.0))
def test_a_seed_repeats_its_draws(seed: int, temperature: float) -> None:
    sampling = Sampling(max_new_tokens=1, temperature=temperature, seed=seed)
    assert drawn(20, sampling) == drawn(20, sampling)


def test_a_draw_that_raises_fails_its_own_row_only() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, 3.0, 1.0]])
    overflowing = Sampler(Sampling(max_new_tokens=4, temperature=1e-300))
    outside = Sampler(Sampling(max_new_tokens=4, min_new_tokens=2, stop_ids=(7,)))
    fine = Sampler(Sampling(max_new_tokens=4))
    assert choose(logits, [overflowing, fine]) == [None, Draw(1)]
    assert choose(logits, [outside, fine]) == [None, Draw(1)]
