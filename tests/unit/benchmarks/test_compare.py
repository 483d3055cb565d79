"""The parts of the comparison, with fakes: load generators, faults, intervals, costs, operation's line count."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import pytest

import inference
from benchmarks import operation
from benchmarks.harness import faults
from benchmarks.harness.arrivals import BackgroundClients, RequestSample, closed_loop, open_loop, rounds_of
from benchmarks.harness.bootstrap import mean, percentiles
from benchmarks.harness.costs import per_thousand
from benchmarks.harness.faults import MODES
from benchmarks.harness.variants import RunningVariant
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


def test_a_closed_loop_sends_every_body_and_times_each_answer(url: str) -> None:
    samples, wall_s = closed_loop(url, [BODY] * 12, 4)
    assert len(samples) == 12
    assert all((sample.error, sample.text, sample.tokens) == ("", "Brasília.", 3) for sample in samples)
    assert all(0 < sample.first_s <= sample.total_s <= wall_s for sample in samples)
    assert all(sample.tpot_s is not None and sample.tpot_s >= 0 for sample in samples)


def test_an_open_loop_keeps_its_rate_independently_of_the_server(url: str) -> None:
    began = time.perf_counter()
    samples, _ = open_loop(url, [BODY] * 40, 200.0, random.Random(1))
    starts = sorted(sample.began - began for sample in samples)
    assert 0.1 < starts[-1] < 0.5, "40 arrivals at 200 a second"
    assert not any(sample.error for sample in samples)


def test_a_failed_request_is_a_sample_with_the_error_code(url: str, generator: FakeGenerator) -> None:
    generator.pieces = ("Bra", BROKEN)
    (sample,), _ = closed_loop(url, [BODY], 1)
    assert sample.error == "generation_failed"


def test_background_clients_use_every_mode_until_stopped(url: str) -> None:
    clients = BackgroundClients(url, MODES, pause_s=0.001)
    time.sleep(0.1)
    samples = clients.stop()
    assert {sample.mode for sample in samples} == set(MODES)
    assert not any(sample.error for sample in samples)


def test_answers_from_before_a_fault_do_not_count_as_recovery() -> None:
    now = time.perf_counter()
    before = [RequestSample(now - 1.0 + place / 10, 0.01, mode=mode) for place in range(9) for mode in MODES]
    assert not faults._healthy(before, since=now)
    assert faults._healthy(before, since=now - 60)
    lost = RequestSample(now - 0.2, 0.01, mode="answer", error="503")
    assert not faults._healthy([*before, lost], since=now - 60)


def test_a_fault_on_an_unhealthy_variant_is_refused(
    url: str, generator: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator.pieces = (BROKEN,)
    monkeypatch.setattr(faults, "_LONGEST_S", 0.2)
    with pytest.raises(RuntimeError, match="not healthy"):
        faults._inject(RunningVariant("monolith", url, 0.0, []), lambda: True)


def test_rounds_use_every_question_equally_often() -> None:
    bodies = [{"query": "a"}, {"query": "b"}, {"query": "c"}]
    assert sorted(body["query"] for body in rounds_of(bodies, 9, random.Random(1))) == list("aaabbbccc")


def test_an_interval_contains_the_true_mean_about_as_often_as_its_level() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(40):
        found = mean(list(rng.normal(3.0, 1.0, 60)))
        covered += found["low"] <= 3.0 <= found["high"]
    assert covered >= 34
    assert percentiles([1.0, 2.0, 3.0])["p50"]["value"] == 2.0
    assert mean([])["value"] is None


def test_the_lines_of_code_for_the_microservices_are_counted() -> None:
    assert operation._lines() > 500


def test_the_llm_alone_serves_more_and_the_break_even_price_is_the_value_of_that() -> None:
    costs = per_thousand(
        "Qwen2.5-7B", "ml.g5.xlarge", "ml.c5.2xlarge", context_tokens=4096, retrieve_s=0.02, cpu_usd_per_hour=0.3
    )
    alone, split = costs["monolith with bge-m3"], costs["split"]
    assert split["sessions"] > alone["sessions"]
    worth = alone["break_even_cpu_usd_per_hour"]["one_gpu"]
    rate = 3.6 * split["requests_per_s"]
    assert (costs["gpu_usd_per_hour"] + worth) / rate == pytest.approx(alone["usd_per_1000"])
    assert split["usd_per_1000"]["one_gpu"] == pytest.approx((costs["gpu_usd_per_hour"] + 0.3) / rate)
    assert split["usd_per_1000"]["at_scale"] < split["usd_per_1000"]["one_gpu"]
