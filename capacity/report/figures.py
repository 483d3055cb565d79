"""The figures of a report as one JSON object, from which every form of it is written."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capacity.errors import CapacityError
from capacity.memory.kv import KvLayout, line_at
from capacity.planning.facility import storage_profile
from capacity.planning.latency import tokens_of
from capacity.planning.measurements import MeasuredLatency
from capacity.planning.plan import Verdict, check
from capacity.planning.refusal import refuse
from capacity.planning.scenarios import EXACT, POLICIES, Policy, Sizing, size
from capacity.planning.workload import Request
from capacity.precision import kv_format
from capacity.report.scenario_figures import scenario_figures
from capacity.units import gib

SCHEMA = "capacity.report/1"
# Contexts of the curve of sessions against context, as multiples of the requested one.
_CURVE_SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4)
_ALERT_SHARE = 0.8
_LONG_CONTEXT = 32_768


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Settings of a report beside the request."""

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
    """The report's figures as a JSON object. Raises CapacityError for options that contradict the request."""
    chosen = options or ReportOptions()
    sizing = size(request, chosen.method, chosen.policies, chosen.overhead_gib, chosen.node_availability)
    profile = storage_profile(chosen.profile)
    scenarios = {
        scenario.name: scenario_figures(sizing, scenario, profile, chosen.ttft_s, chosen.tpot_s, chosen.measured)
        for scenario in sizing.scenarios
    }
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
    moment = chosen.generated_at or datetime.datetime.now(tz=datetime.UTC).replace(microsecond=0)
    return {
        "schema": SCHEMA,
        "generated_at": moment.isoformat(),
        "method": chosen.method,
        "model": _model(request, chosen),
        "hardware": _hardware(request, chosen),
        "workload": _workload(request),
        "tensor_parallel": sizing.tensor_parallel,
        "scenarios": scenarios,
        "terms": _terms(verdict),
        "plan": verdict.plan.to_json(),
        "fits": verdict.fits,
        "refusal": refused.to_json() if refused else None,
        "curve": _curve(request, sizing, chosen),
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


def _model(request: Request, options: ReportOptions) -> dict[str, Any]:
    model = request.model
    kinds = [layer.kind for layer in model.layers]
    windows = sorted({layer.window_tokens for layer in model.layers if layer.window_tokens})
    attending = next((layer for layer in model.layers if layer.attends), None)
    return {
        "name": options.requested_name or model.name,
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


def _hardware(request: Request, options: ReportOptions) -> dict[str, Any]:
    node = request.hardware
    return {
        "name": options.hardware_name or node.name,
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


def _terms(verdict: Verdict) -> list[dict[str, Any]]:
    """Memory of the fullest rank, term by term; then what is free, and what the engine may not use."""
    plan = verdict.plan
    found = [
        {"name": term.name, "gib": gib(term.bytes), "label": term.label}
        for term in plan.terms
        if "main memory" not in term.name
    ]
    free = plan.have_bytes - plan.need_total_bytes
    if free > 0:
        found.append({"name": "free", "gib": gib(free), "label": "exact"})
    found.append({"name": "outside", "gib": gib(plan.device_bytes - plan.have_bytes), "label": "exact"})
    return found


def _curve(request: Request, sizing: Sizing, options: ReportOptions) -> list[dict[str, Any]]:
    """Sessions a node at contexts around the requested one, by the same method, in the recommended scenario."""
    limit = request.model.max_context_tokens or request.workload.context_tokens * 4
    asked = request.workload.context_tokens
    contexts = sorted({min(limit, max(1, round(asked * share))) for share in _CURVE_SHARES})
    found = []
    for context in contexts:
        try:
            other = request.with_changes(
                context_tokens=context, input_tokens=None, output_tokens=None, tensor_parallel=sizing.tensor_parallel
            )
            sized = size(other, options.method, {"recommended": options.policies["recommended"]}, options.overhead_gib)
        except CapacityError:
            continue
        found.append({"context_tokens": context, "sessions_per_node": sized.scenarios[0].sessions_per_node})
    return found


def _alerts(
    request: Request, sizing: Sizing, scenarios: Mapping[str, Mapping[str, Any]], verdict: Verdict
) -> list[dict[str, Any]]:
    """Warnings as codes with their figures; each language has its own wording for a code."""
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
