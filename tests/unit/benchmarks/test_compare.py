"""The comparison's parts, over fakes: arrivals, intervals, costs. Its figures are for whoever runs it."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest

import inference
from benchmarks.harness import faults
from benchmarks.harness.arrivals import Sample, Steady, closed_loop, open_loop, rounds_of
from benchmarks.harness.bootstrap import mean, percentiles
from benchmarks.harness.costs import per_thousand
from benchmarks.harness.faults import MODES
from benchmarks.harness.variants import Variant
from rag.settings import Settings
from tests.fakes import BROKEN, FakeGenerator, fake_pipeline
from tests.services import ready, serving

BODY = {"query": "Qual a capital do Brasil?"}


@pytest.fixture
def generator() -> FakeGenerator:
    return FakeGenerator()


@pytest.fixture
def url(generator: FakeGenerator) -> Iterator[str]:
    with serving(inference.create_app(Settings(metrics_emf_s=0), ready(fake_pipeline(generator)))) as url:
        yield url


def test_a_closed_loop_asks_everything_and_times_each_piece(url: str) -> None:
    samples, wall_s = closed_loop(url, [BODY] * 12, 4)
    assert len(samples) == 12
    assert all((sample.error, sample.text, sample.tokens) == ("", "Brasília.", 3) for sample in samples)
    assert all(0 < sample.first_s <= sample.total_s <= wall_s for sample in samples)
    assert all(sample.tpot_s is not None and sample.tpot_s >= 0 for sample in samples)


def test_an_open_loop_keeps_its_rate_whatever_the_server_does(url: str) -> None:
    began = time.perf_counter()
    samples, _ = open_loop(url, [BODY] * 40, 200.0, random.Random(1))
    starts = sorted(sample.began - began for sample in samples)
    assert 0.1 < starts[-1] < 0.5, "40 arrivals at 200 a second"
    assert not any(sample.error for sample in samples)


def test_a_failure_is_a_sample_with_its_code(url: str, generator: FakeGenerator) -> None:
    generator.pieces = ("Bra", BROKEN)
    (sample,), _ = closed_loop(url, [BODY], 1)
    assert sample.error == "generation_failed"


def test_steady_clients_ask_in_every_mode_until_they_are_stopped(url: str) -> None:
    clients = Steady(url, MODES, pause_s=0.001)
    time.sleep(0.1)
    samples = clients.stop()
    assert {sample.mode for sample in samples} == set(MODES)
    assert not any(sample.error for sample in samples)


def test_answers_from_before_a_fault_are_no_recovery() -> None:
    now = time.perf_counter()
    before = [Sample(now - 1.0 + place / 10, 0.01, mode=mode) for place in range(9) for mode in MODES]
    assert not faults._healthy(before, since=now)
    assert faults._healthy(before, since=now - 60)
    lost = Sample(now - 0.2, 0.01, mode="answer", error="503")
    assert not faults._healthy([*before, lost], since=now - 60)


def test_a_fault_on_a_variant_that_is_not_healthy_is_refused(
    url: str, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator.pieces = (BROKEN,)
    monkeypatch.setattr(faults, "_LONGEST_S", 0.2)
    with pytest.raises(RuntimeError, match="not healthy"):
        faults._harm(Variant("monolith", url, 0.0, []), lambda: True)


def test_rounds_use_every_question_about_as_often() -> None:
    drawn = [body["query"] for body in rounds_of([{"query": "a"}, {"query": "b"}, {"query": "c"}], 9, random.Random(1))]
    assert sorted(drawn) == list("aaabbbccc")


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(5)
    held = 0
    for _ in range(40):
        found = mean(list(drawn.normal(3.0, 1.0, 60)))
        held += found["low"] <= 3.0 <= found["high"]
    assert held >= 34
    assert percentiles([1.0, 2.0, 3.0])["p50"]["value"] == 2.0
    assert mean([])["value"] is None


def test_the_split_s_card_serves_more_and_the_break_even_is_what_that_is_worth() -> None:
    told = per_thousand(
        "Qwen2.5-7B", "ml.g5.xlarge", "ml.c5.2xlarge", context_tokens=4096, retrieve_s=0.02, cpu_usd_per_hour=0.3
    )
    alone, split = told["monolith with bge-m3"], told["split"]
    assert split["sessions"] > alone["sessions"]
    worth = alone["break_even_cpu_usd_per_hour"]["one_gpu"]
    rate = 3.6 * split["requests_per_s"]
    assert (told["gpu_usd_per_hour"] + worth) / rate == pytest.approx(alone["usd_per_1000"])
    assert split["usd_per_1000"]["one_gpu"] == pytest.approx((told["gpu_usd_per_hour"] + 0.3) / rate)
    assert split["usd_per_1000"]["at_scale"] < split["usd_per_1000"]["one_gpu"]
