"""The one set of figures behind every form of the report. Bytes become GiB here and nowhere else."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capacity.errors import CapacityError
from capacity.memory.kv import KvLayout, line_at
from capacity.planning.facility import Facility, StorageProfile, facility, storage_profile
from capacity.planning.fixes import refuse
from capacity.planning.latency import Latency, estimate_latency, largest_batch, tokens_of
from capacity.planning.measurements import MeasuredLatency
from capacity.planning.plan import Verdict, check
from capacity.planning.scenarios import EXACT, POLICIES, Policy, Scenario, Sizing, size
from capacity.planning.workload import Request
from capacity.precision import kv_format
from capacity.units import GIB, TIB, ceil_div

SCHEMA = "capacity.report/1"
# Contexts of the curve of sessions against context, as shares of the one asked for and beyond it.
_CURVE_SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
_ALERT_SHARE = 0.8
_LONG_CONTEXT = 32_768
_GIB_DIGITS = 6


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a report may be told besides the request."""

    method: str = EXACT
    policies: Mapping[str, Policy] = field(default_factory=lambda: POLICIES)
    overhead_gib: float | None = None
    node_availability: float | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    profile: str = "profile_default"
    measured: MeasuredLatency | None = None
    requested_name: str | None = None
    hardware_name: str | None = None
    generated_at: datetime.datetime | None = None


def figures(request: Request, options: ReportOptions | None = None) -> dict[str, Any]:
    """The report's figures as a JSON object. Raises CapacityError for what can't be asked."""
    told = options or ReportOptions()
    sizing = size(request, told.method, told.policies, told.overhead_gib, told.node_availability)
    profile = storage_profile(told.profile)
    scenarios = {scenario.name: _scenario(sizing, scenario, told, profile) for scenario in sizing.scenarios}
    baseline = scenarios["minimum"]["nodes"]
    for scenario in scenarios.values():
        nodes = scenario["nodes"]
        scenario["relative_capex"] = nodes / baseline - 1 if nodes and baseline else None
    recommended = sizing.named("recommended")
    verdict = check(
        request.with_changes(tensor_parallel=sizing.tensor_parallel, instances=max(1, recommended.needed_nodes or 1))
    )
    alone = request.with_changes(concurrency=1, instances=1)
    refused = refuse(alone, check(alone)) if not recommended.nodes else None
    moment = told.generated_at or datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0)
    return {
        "schema": SCHEMA,
        "generated_at": moment.isoformat(),
        "method": told.method,
        "model": _model(request, told),
        "hardware": _hardware(request, told),
        "workload": _workload(request),
        "tensor_parallel": sizing.tensor_parallel,
        "scenarios": scenarios,
        "terms": _terms(verdict),
        "plan": verdict.plan.to_json(),
        "fits": verdict.fits,
        "refusal": refused.to_json() if refused else None,
        "curve": _curve(request, sizing, told),
        "storage": {
            "name": profile.name,
            "read_gb_s": profile.read_bytes_per_s / 1e9,
            "read_p99_ms": profile.read_p99_ms,
        },
        "governance": {
            "alert_share": _ALERT_SHARE,
            "alert_sessions": int(request.workload.concurrency * _ALERT_SHARE),
            "budget_ratio": recommended.policy.ratio,
        },
        "alerts": _alerts(request, sizing, scenarios, verdict),
    }


def gib(size_bytes: float) -> float:
    """GiB, to six digits: what every form of the report formats from."""
    return round(size_bytes / GIB, _GIB_DIGITS)


def _model(request: Request, told: ReportOptions) -> dict[str, Any]:
    model = request.model
    kinds = [layer.kind for layer in model.layers]
    windows = sorted({layer.window_tokens for layer in model.layers if layer.window_tokens})
    attending = next((layer for layer in model.layers if layer.attends), None)
    return {
        "name": told.requested_name or model.name,
        "catalogue_name": model.name,
        "model_type": model.config.model_type,
        "layers": len(model.layers),
        "layer_kinds": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "attention_pattern": _pattern(kinds),
        "kv_heads": attending.kv_heads if attending else 0,
        "head_dim": attending.k_dim if attending else 0,
        "latent_dim": attending.latent_dim if attending else 0,
        "windows_tokens": windows,
        "parameters_total": model.parameters.total,
        "parameters_active": model.parameters.active,
        "max_context_tokens": model.max_context_tokens,
        "dtype": model.dtype,
        "quantization": model.quantization.weights.name if model.quantization else None,
        "confidence": model.confidence,
        "source": model.source,
    }


def _pattern(kinds: list[str]) -> str:
    """full, sliding, chunked, latent (MLA), state, or hybrid where kinds are mixed."""
    attending = {kind for kind in kinds if kind != "none"}
    if attending == {"mla"}:
        return "latent"
    return attending.pop() if len(attending) == 1 else "hybrid"


def _hardware(request: Request, told: ReportOptions) -> dict[str, Any]:
    node = request.hardware
    return {
        "name": told.hardware_name or node.name,
        "catalogue_name": node.name,
        "kind": node.kind,
        "device": node.device.name,
        "devices": node.devices,
        "device_memory_gib": gib(node.device.memory_bytes),
        "marketing_gb": round(node.marketing_bytes / 1e9, 1),
        "marketing_gib": gib(node.marketing_bytes),
        "source": node.source,
        "confidence": node.confidence,
        "notes": node.notes,
    }


def _workload(request: Request) -> dict[str, Any]:
    load, engine = request.workload, request.engine
    into, out = tokens_of(request)
    line = line_at(
        request.model.layers,
        load.context_tokens,
        KvLayout(kv_format(request.kv_dtype), encoder_tokens=load.encoder_tokens),
    )
    return {
        "context_tokens": load.context_tokens,
        "concurrency": load.concurrency,
        "input_tokens": into,
        "output_tokens": out,
        "input_given": load.input_tokens is not None,
        "kv_dtype": request.kv_dtype,
        "kv_element_bytes": float(kv_format(request.kv_dtype).element_bytes),
        "kv_bytes_per_token": float(line.bytes_per_token),
        "kv_constant_bytes": line.constant_bytes,
        "weights_dtype": engine.weights_dtype,
        "utilization": engine.utilization,
        "block_size_tokens": engine.block_size_tokens,
        "vectors": load.vectors,
        "index_gib": gib(load.index_bytes),
        "embedder_gib": gib(load.embedder_bytes),
    }


def _scenario(sizing: Sizing, scenario: Scenario, told: ReportOptions, profile: StorageProfile) -> dict[str, Any]:
    request, policy = sizing.request, scenario.policy
    replicas = max(1, request.hardware.devices // (sizing.tensor_parallel * request.engine.pipeline_parallel))
    latency, objective = None, None
    if scenario.needed_nodes:
        batch = ceil_div(request.workload.concurrency, scenario.needed_nodes * replicas)
        latency = estimate_latency(request, sizing.tensor_parallel, batch, told.measured)
        if told.ttft_s is not None or told.tpot_s is not None:
            each = ceil_div(scenario.sessions_per_node, replicas)
            objective = largest_batch(request, sizing.tensor_parallel, each, told.ttft_s, told.tpot_s, told.measured)
    rate = request.workload.concurrency / latency.request_s if latency else None
    housed = (
        facility(
            scenario.name,
            scenario.nodes,
            request.hardware,
            request.model,
            request.engine.weights_dtype,
            profile,
            rate,
        )
        if scenario.nodes
        else None
    )
    available = scenario.availability
    return {
        "kv_per_session_gib": gib(scenario.kv_per_session_bytes),
        "kv_total_gib": gib(scenario.kv_total_bytes),
        "kv_total_tib": round(scenario.kv_total_bytes / TIB, _GIB_DIGITS),
        "node_memory_gib": gib(scenario.node_memory_bytes),
        "overhead_gib": gib(scenario.overhead_bytes),
        "budget_ratio": policy.ratio,
        "budget_per_node_gib": gib(scenario.budget_per_node_bytes),
        "sessions_per_node": scenario.sessions_per_node,
        "headroom": policy.headroom,
        "spare_nodes": policy.spare_nodes,
        "ha": f"N+{policy.spare_nodes}" if policy.spare_nodes else "none",
        "needed_nodes": scenario.needed_nodes,
        "nodes": scenario.nodes,
        "surviving_sessions": scenario.surviving_sessions,
        "sessions_after_one_failure": (scenario.nodes - 1) * scenario.sessions_per_node if scenario.nodes else None,
        "covers_nominal": scenario.covers_nominal,
        "availability": (
            {
                "node_availability": available.node_availability,
                "nodes": available.nodes,
                "needed_nodes": available.needed_nodes,
                "availability": round(available.availability, 8),
            }
            if available
            else None
        ),
        "infeasible": scenario.infeasible,
        "latency": _latency(latency),
        "objective": (
            {
                "ttft_s": told.ttft_s,
                "tpot_s": told.tpot_s,
                "sessions_per_node": objective.max_batch * replicas,
                "infeasible": objective.infeasible,
                "needed_s": round(objective.needed_s, 5) if objective.needed_s is not None else None,
            }
            if objective
            else None
        ),
        "requests_per_s": round(rate, 4) if rate else None,
        "facility": _facility(housed),
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


def _terms(verdict: Verdict) -> list[dict[str, Any]]:
    """Memory of the fullest rank, term by term; what the workload leaves free comes last."""
    made = verdict.plan
    found = [
        {"name": term.name, "gib": gib(term.bytes), "label": term.label}
        for term in made.terms
        if "main memory" not in term.name
    ]
    free = made.have_bytes - made.need_total_bytes
    if free > 0:
        found.append({"name": "free", "gib": gib(free), "label": "exact"})
    found.append({"name": "outside", "gib": gib(made.device_bytes - made.have_bytes), "label": "exact"})
    return found


def _curve(request: Request, sizing: Sizing, told: ReportOptions) -> list[dict[str, Any]]:
    """Sessions a node at contexts around the one asked for, by the same method, in the recommended scenario."""
    limit = request.model.max_context_tokens or request.workload.context_tokens * 4
    asked = request.workload.context_tokens
    contexts = sorted({min(limit, max(1, round(asked * share))) for share in _CURVE_SHARES})
    found = []
    for context in contexts:
        try:
            other = request.with_changes(
                context_tokens=context, input_tokens=None, output_tokens=None, tensor_parallel=sizing.tensor_parallel
            )
            sized = size(other, told.method, {"recommended": told.policies["recommended"]}, told.overhead_gib)
        except CapacityError:
            continue
        found.append({"context_tokens": context, "sessions_per_node": sized.scenarios[0].sessions_per_node})
    return found


def _alerts(
    request: Request, sizing: Sizing, scenarios: Mapping[str, Mapping[str, Any]], verdict: Verdict
) -> list[dict[str, Any]]:
    """What a reader must not miss, as codes with their figures; the wording is each language's own."""
    found: list[dict[str, Any]] = []
    load, model = request.workload, request.model
    if scenarios["recommended"]["nodes"] is None:
        found.append({"code": "infeasible"})
    if scenarios["minimum"]["latency"] and load.input_tokens is None:
        found.append({"code": "assumed_tokens"})
    if load.context_tokens >= _LONG_CONTEXT:
        found.append({"code": "long_context", "context_tokens": load.context_tokens})
    if model.max_context_tokens == load.context_tokens:
        found.append({"code": "context_at_limit", "context_tokens": load.context_tokens})
    if sizing.method != EXACT:
        found.append({"code": "reference_method"})
    if any(scenario["budget_ratio"] > 0.75 for scenario in scenarios.values()):
        found.append({"code": "aggressive_ratio"})
    if any(term.label == "estimated" for term in verdict.plan.terms):
        found.append({"code": "estimated_terms"})
    if model.confidence not in ("read", "derived"):
        found.append({"code": "recalled_model", "confidence": model.confidence})
    if scenarios["minimum"]["facility"] and scenarios["minimum"]["facility"]["usd_per_hour"] is None:
        found.append({"code": "no_price"})
    if scenarios["minimum"]["nodes"] and scenarios["minimum"]["latency"] is None:
        found.append({"code": "no_latency"})
    minimum = scenarios["minimum"]
    if minimum["nodes"] and minimum["sessions_per_node"] * minimum["nodes"] < load.concurrency * 1.1:
        found.append({"code": "tight_minimum", "sessions": minimum["sessions_per_node"] * minimum["nodes"]})
    return found
