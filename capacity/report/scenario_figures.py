"""The figures of one scenario in a report: memory, nodes, availability, latency, facility and cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from capacity.planning.facility import Facility, StorageProfile, facility
from capacity.planning.latency import Latency, Objective, estimate_latency, largest_batch
from capacity.planning.measurements import MeasuredLatency
from capacity.planning.scenarios import Availability, Scenario, Sizing
from capacity.units import TIB, ceil_div, gib


def scenario_figures(
    sizing: Sizing,
    scenario: Scenario,
    profile: StorageProfile,
    ttft_s: float | None,
    tpot_s: float | None,
    measured: MeasuredLatency | None,
) -> dict[str, Any]:
    """One scenario as a JSON object; `ttft_s` and `tpot_s` are the latency objective."""
    request, ranks = sizing.request, sizing.tensor_parallel
    replicas = max(1, request.hardware.devices // (ranks * request.engine.pipeline_parallel))
    latency, objective = None, None
    if scenario.needed_nodes:
        batch = ceil_div(request.workload.concurrency, scenario.needed_nodes * replicas)
        latency = estimate_latency(request, ranks, batch, measured)
        if ttft_s is not None or tpot_s is not None:
            each = ceil_div(scenario.sessions_per_node, replicas)
            objective = largest_batch(request, ranks, each, ttft_s, tpot_s, measured)
    rate = request.workload.concurrency / latency.request_s if latency else None
    housed = None
    if scenario.nodes:
        weights_dtype = request.engine.weights_dtype
        housed = facility(scenario.name, scenario.nodes, request.hardware, request.model, weights_dtype, profile, rate)
    return {
        **_capacity(scenario),
        "availability": _availability(scenario.availability),
        "infeasible": scenario.infeasible,
        "latency": _latency(latency),
        "objective": _objective(objective, ttft_s, tpot_s, replicas),
        "requests_per_s": round(rate, 4) if rate else None,
        "facility": _facility(housed),
    }


def _capacity(scenario: Scenario) -> dict[str, Any]:
    policy, nodes = scenario.policy, scenario.nodes
    return {
        "kv_per_session_gib": gib(scenario.kv_per_session_bytes),
        "kv_total_gib": gib(scenario.kv_total_bytes),
        "kv_total_tib": round(scenario.kv_total_bytes / TIB, 6),
        "node_memory_gib": gib(scenario.node_memory_bytes),
        "overhead_gib": gib(scenario.overhead_bytes),
        "budget_ratio": policy.ratio,
        "budget_per_node_gib": gib(scenario.budget_per_node_bytes),
        "sessions_per_node": scenario.sessions_per_node,
        "headroom": policy.headroom,
        "spare_nodes": policy.spare_nodes,
        "ha": f"N+{policy.spare_nodes}" if policy.spare_nodes else "none",
        "needed_nodes": scenario.needed_nodes,
        "nodes": nodes,
        "surviving_sessions": scenario.surviving_sessions,
        "sessions_after_one_failure": (nodes - 1) * scenario.sessions_per_node if nodes else None,
        "covers_nominal": scenario.covers_nominal,
    }


def _availability(availability: Availability | None) -> dict[str, Any] | None:
    if availability is None:
        return None
    return asdict(availability) | {"availability": round(availability.availability, 8)}


def _objective(
    objective: Objective | None, ttft_s: float | None, tpot_s: float | None, replicas: int
) -> dict[str, Any] | None:
    if objective is None:
        return None
    return {
        "ttft_s": ttft_s,
        "tpot_s": tpot_s,
        "sessions_per_node": objective.max_batch * replicas,
        "infeasible": objective.infeasible,
        "needed_s": round(objective.needed_s, 5) if objective.needed_s is not None else None,
    }


def _latency(latency: Latency | None) -> dict[str, Any] | None:
    if latency is None:
        return None
    low, high = latency.range_of(1.0)
    return {
        "label": latency.label,
        "band": latency.band,
        "batch_per_replica": latency.batch,
        "bound": latency.bound,
        "ttft_s": round(latency.ttft_s, 5),
        "ttft_low_s": round(latency.ttft_s * low, 5),
        "ttft_high_s": round(latency.ttft_s * high, 5),
        "tpot_s": round(latency.tpot_s, 6),
        "tpot_low_s": round(latency.tpot_s * low, 6),
        "tpot_high_s": round(latency.tpot_s * high, 6),
        "request_s": round(latency.request_s, 4),
    }


def _facility(housed: Facility | None) -> dict[str, Any] | None:
    if housed is None:
        return None
    storage = housed.storage
    return {
        "rack_units": housed.rack_units,
        "nameplate_kw": round(housed.nameplate_w / 1000, 3) if housed.nameplate_w else None,
        "expected_kw": round(housed.expected_w / 1000, 3) if housed.expected_w else None,
        "heat_btu_per_hour": round(housed.heat_btu_per_hour) if housed.heat_btu_per_hour else None,
        "storage_weights_gib": gib(storage.weights_bytes),
        "storage_cache_gib": gib(storage.runtime_cache_bytes),
        "storage_logs_gib": gib(storage.log_bytes) if storage.log_bytes is not None else None,
        "log_retention_days": storage.retention_days,
        "storage_total_gib": gib(storage.total_bytes(housed.nodes)),
        "warm_up_s": round(housed.warm_up_s, 2),
        "usd_per_hour": housed.usd_per_hour,
        "usd_per_month": round(housed.usd_per_month, 2) if housed.usd_per_month else None,
        "usd_per_1k_requests": round(housed.usd_per_1k_requests, 4) if housed.usd_per_1k_requests else None,
        "price_note": housed.price_note,
    }
