"""Scenarios, latency, facility and money: the reference figure by figure, and common sizing mistakes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import EngineSpec, InvalidInput, Request, Workload, load_hardware, load_model
from capacity.planning.facility import facility, storage_profile
from capacity.planning.latency import estimate_latency, largest_batch, tokens_of
from capacity.planning.measurements import MeasuredLatency
from capacity.planning.scenarios import POLICIES, Policy, size
from capacity.units import GIB, TIB


def request(
    model: str, machine: str, context: int, concurrency: int, *, load: dict[str, Any] | None = None, **engine: Any
) -> Request:
    return Request(
        load_model(model), load_hardware(machine), Workload(context, concurrency, **(load or {})), EngineSpec(**engine)
    )


REFERENCE = request("opt-oss-120b", "dgx300", 131_072, 1000, kv_dtype="fp8")


@pytest.mark.parametrize(
    ("name", "budget", "sessions", "nodes", "surviving"),
    [("minimum", 1418.0, 629, 2, 1258), ("recommended", 1418.0, 629, 3, 1258), ("ideal", 1316.7, 584, 5, 1752)],
)
def test_the_reference_method_reproduces_the_reference_report(
    name: str, budget: float, sessions: int, nodes: int, surviving: int
) -> None:
    found = size(REFERENCE, "reference", overhead_gib=120).named(name)
    assert round(found.kv_per_session_bytes / GIB, 2) == 2.25
    assert round(found.kv_total_bytes / GIB, 1) == 2252.2
    assert round(found.kv_total_bytes / TIB, 2) == 2.20
    assert round(found.node_memory_bytes / GIB, 1) == 2145.8
    assert round(found.budget_per_node_bytes / GIB, 1) == budget
    assert (found.sessions_per_node, found.nodes, found.surviving_sessions) == (sessions, nodes, surviving)


def test_policies_are_the_references_and_each_can_be_overridden() -> None:
    assert [(p.headroom, p.spare_nodes, p.ratio) for p in POLICIES.values()] == [
        (0.0, 0, 0.70),
        (0.20, 1, 0.70),
        (0.30, 2, 0.65),
    ]
    found = size(REFERENCE, "reference", {"recommended": Policy(0.5, 3, 0.9)}, 120).named("recommended")
    assert found.sessions_per_node == math.floor((2304e9 / GIB - 120) * 0.9 * GIB / found.kv_per_session_bytes)
    assert found.nodes == math.ceil(1500 / found.sessions_per_node) + 3


@pytest.mark.parametrize("bad", [{"ratio": 0.0}, {"ratio": 1.1}, {"headroom": -0.1}, {"spare_nodes": -1}])
def test_a_policy_out_of_range_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=r"outside"):
        Policy(**{"headroom": 0.0, "spare_nodes": 0, "ratio": 0.7, **bad})  # type: ignore[arg-type]


def test_headroom_is_on_the_demand_and_not_on_rounded_nodes() -> None:
    found = size(REFERENCE, "reference", overhead_gib=120).named("recommended")
    assert found.needed_nodes == math.ceil(1200 / 629) == 2 < math.ceil(math.ceil(1000 / 629) * 1.2)


def test_a_flat_overhead_and_exact_terms_are_not_both_taken() -> None:
    with pytest.raises(InvalidInput, match="--method reference"):
        size(REFERENCE, "exact", overhead_gib=120)
    with pytest.raises(InvalidInput, match="needs the flat overhead"):
        size(REFERENCE, "reference")


def test_the_exact_method_counts_ranks_and_applies_the_ratio_once() -> None:
    sized = size(request("Llama-3.1-70B", "dgx h100", 8192, 64, tensor_parallel=4))
    minimum = sized.named("minimum")
    pool = minimum.node_memory_bytes - minimum.overhead_bytes
    assert minimum.budget_per_node_bytes == pytest.approx(pool * 0.7, rel=1e-6)
    assert minimum.sessions_per_node % 2 == 0  # two replicas of four
    assert minimum.sessions_per_node * minimum.kv_per_session_bytes <= minimum.budget_per_node_bytes


def test_no_session_is_an_infeasible_scenario_without_nodes() -> None:
    found = size(request("Llama-3.1-405B", "ml.g5.xlarge", 8192, 10)).named("ideal")
    assert (found.sessions_per_node, found.nodes, found.surviving_sessions) == (0, None, None)
    assert found.infeasible


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(["reference", "exact"]))
def test_more_sessions_never_take_fewer_nodes(one: int, two: int, method: str) -> None:
    overhead = 120.0 if method == "reference" else None
    low, high = sorted((one, two))
    nodes = [
        size(REFERENCE.with_changes(concurrency=count), method, overhead_gib=overhead).named("recommended").nodes
        for count in (low, high)
    ]
    assert nodes[0] is not None
    assert nodes[1] is not None
    assert nodes[0] <= nodes[1]


def test_availability_is_stated_only_from_a_model_with_its_inputs() -> None:
    assert size(REFERENCE, "reference", overhead_gib=120).named("recommended").availability is None
    found = size(REFERENCE, "reference", overhead_gib=120, node_availability=0.99).named("recommended").availability
    assert found is not None
    assert (found.nodes, found.needed_nodes) == (3, 2)
    assert found.availability == pytest.approx(0.99**3 + 3 * 0.99**2 * 0.01)


def test_input_and_output_tokens_are_inputs_of_their_own() -> None:
    given_tokens = request("Llama-3.1-8B", "L40S", 8192, 1, load={"input_tokens": 1000, "output_tokens": 100})
    assert tokens_of(given_tokens) == (1000, 100)
    assert tokens_of(request("Llama-3.1-8B", "L40S", 8192, 1)) == (8192 - 256, 256)


def test_latency_is_an_estimate_with_its_band() -> None:
    asked = request("Llama-3.1-8B", "h100", 8192, 1, load={"input_tokens": 1000, "output_tokens": 100})
    found = estimate_latency(asked, 1, 1)
    assert found is not None
    assert (found.label, found.band, found.bound) == ("estimated", 0.35, "memory")
    weights = 16_060_522_496 / (3350e9 * 0.8)
    assert weights < found.tpot_s < 1.5 * weights
    low, high = found.range_of(found.tpot_s)
    assert low < found.tpot_s < high


def test_more_sessions_slow_each_token_and_fewer_experts_are_read_by_one_alone() -> None:
    asked = request("gpt-oss-120b", "dgx300", 32768, 1, load={"input_tokens": 2000, "output_tokens": 200})
    paces = [found.tpot_s for batch in (1, 8, 64, 256) if (found := estimate_latency(asked, 1, batch))]
    assert paces == sorted(paces)
    dense = 65_248_815_744 / (8000e9 * 0.8)
    assert paces[0] < dense / 2


def test_an_objective_gives_the_largest_batch_that_keeps_it() -> None:
    asked = request("Llama-3.1-8B", "h100", 8192, 1, load={"input_tokens": 1000, "output_tokens": 100})
    kept = largest_batch(asked, 1, 400, ttft_s=1.0, tpot_s=0.02)
    assert kept is not None
    at, beyond = (estimate_latency(asked, 1, kept.max_batch + extra) for extra in (0, 1))
    assert at is not None
    assert beyond is not None
    assert at.tpot_s <= 0.02 < beyond.tpot_s or kept.max_batch == 400


@pytest.mark.parametrize(("ttft", "tpot", "term"), [(0.001, None, "prefill"), (None, 0.0005, "decode")])
def test_an_objective_out_of_reach_names_the_term(ttft: float | None, tpot: float | None, term: str) -> None:
    asked = request("Llama-3.1-70B", "dgx h100", 8192, 1, load={"input_tokens": 4000, "output_tokens": 100})
    found = largest_batch(asked, 8, 100, ttft, tpot)
    assert found is not None
    assert (found.max_batch, found.infeasible) == (0, term)
    assert found.needed_s is not None


def test_a_device_of_unknown_speed_gets_no_latency_and_a_measurement_gives_it_one() -> None:
    asked = request("SmolLM2-135M", "cpu", 2048, 1, load={"input_tokens": 500, "output_tokens": 50})
    assert estimate_latency(asked, 1, 1) is None
    found = estimate_latency(asked, 1, 1, MeasuredLatency(1000.0, 0.05, 0.02, 0.001, 600))
    crowded = estimate_latency(asked, 1, 11, MeasuredLatency(1000.0, 0.05, 0.02, 0.001, 600))
    assert crowded is not None
    assert crowded.tpot_s == pytest.approx(0.03)
    assert found is not None
    assert (found.label, found.band) == ("measured", 0.0)
    assert found.ttft_s == pytest.approx(0.55)


def test_facility_counts_nodes_and_leaves_unknown_money_null() -> None:
    server, model = load_hardware("dgx300"), load_model("gpt-oss-120b")
    housed = facility("recommended", 3, server, model, None, storage_profile(), 2.0)
    assert (housed.rack_units, housed.nameplate_w) == (30, 43_500)
    assert housed.warm_up_s == pytest.approx(65_248_815_744 / 28e9)
    assert housed.storage.log_bytes == 2 * 86_400 * 30 * 2_000
    assert (housed.usd_per_hour, housed.usd_per_month, housed.usd_per_1k_requests) == (None, None, None)


def test_a_known_price_gives_an_hour_a_month_and_a_thousand_requests() -> None:
    node, model = load_hardware("ml.g5.xlarge"), load_model("Qwen2.5-7B")
    housed = facility("minimum", 2, node, model, None, storage_profile(), 1.0)
    assert node.price is not None
    hourly = 2 * node.price.usd_per_hour
    assert housed.usd_per_hour == hourly
    assert housed.usd_per_month == pytest.approx(hourly * 730)
    assert housed.usd_per_1k_requests == pytest.approx(hourly / 3.6)
    assert node.price.as_of in housed.price_note


def test_retention_of_logs_grows_with_the_scenario() -> None:
    server, model = load_hardware("dgx300"), load_model("gpt-oss-120b")
    days = [facility(n, 1, server, model, None, storage_profile(), 1.0).storage.retention_days for n in POLICIES]
    assert days == sorted(days)
    assert days[0] < days[2]
