"""Section 3: each scenario's figures in one table, and what they mean in operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capacity.report.document import Block, Heading, Paragraph, Table
from capacity.report.writer import SCENARIOS, Writer


def consolidated(writer: Writer) -> list[Block]:
    """The three tables and their meanings."""
    found: list[Block] = []
    for name in SCENARIOS:
        scenario = writer.scenario(name)
        found.append(Heading(writer.say("scenario_heading", name=writer.text[name])))
        rows = tuple((f"**{_name(writer, key)}**", value) for key, value in _rows(writer, scenario))
        found.append(Table((writer.text["head_metric"], writer.text["head_value"]), rows))
        if scenario["nodes"]:
            found.append(Paragraph(writer.text["meaning"] + _meaning(writer, name, scenario)))
    return found


def _name(writer: Writer, key: str) -> str:
    return writer.on_device(key) if key == "m_budget" else writer.text[key]


def _rows(writer: Writer, scenario: Mapping[str, Any]) -> list[tuple[str, str]]:
    numbers, text = writer.numbers, writer.text
    nodes = f"**{numbers.number(scenario['nodes'])}**" if scenario["nodes"] else f"**{text['infeasible']}**"
    rows = [
        ("m_model", writer.model["name"]),
        ("m_server", writer.hardware["name"]),
        ("m_context", writer.say("tokens", count=writer.context)),
        ("m_concurrency", writer.say("sessions", count=writer.concurrency)),
        ("m_kv_session", writer.size(scenario["kv_per_session_gib"])),
        (
            "m_kv_total",
            writer.say(
                "kv_total",
                tib=numbers.number(scenario["kv_total_tib"], 2),
                gib=numbers.number(scenario["kv_total_gib"], 1),
            ),
        ),
        (
            "m_budget",
            writer.say(
                "budget",
                budget=numbers.number(scenario["budget_per_node_gib"], 1),
                total=numbers.number(scenario["node_memory_gib"], 1),
            ),
        ),
        ("m_sessions", numbers.number(scenario["sessions_per_node"])),
        ("m_nodes", nodes),
        ("m_ha", scenario["ha"] if scenario["spare_nodes"] else text["ha_none"]),
        ("m_headroom", numbers.percent(scenario["headroom"])),
    ]
    if not scenario["nodes"]:
        return rows
    rows += [
        ("m_survivors", numbers.number(scenario["surviving_sessions"])),
        ("m_availability", _availability(writer, scenario)),
        ("m_ttft", writer.seconds(scenario["latency"], "ttft", unit="s")),
        ("m_tpot", writer.seconds(scenario["latency"], "tpot", unit="ms")),
    ]
    if scenario["objective"]:
        rows.append(("m_objective", _objective(writer, scenario["objective"])))
    return rows + _facility(writer, scenario["facility"])


def _availability(writer: Writer, scenario: Mapping[str, Any]) -> str:
    available = scenario["availability"]
    if not available:
        return writer.text["availability_none"]
    return writer.say(
        "availability",
        value=writer.numbers.percent(available["availability"], 4),
        node=writer.numbers.percent(available["node_availability"], 2),
        needed=writer.numbers.number(available["needed_nodes"]),
        nodes=writer.numbers.number(available["nodes"]),
    )


def _objective(writer: Writer, objective: Mapping[str, Any]) -> str:
    if objective["infeasible"]:
        scale, digits = (1, 2) if objective["infeasible"] == "prefill" else (1000, 1)
        limit = objective["ttft_s" if objective["infeasible"] == "prefill" else "tpot_s"]
        return writer.say(
            f"objective_{objective['infeasible']}",
            tokens=writer.numbers.number(writer.load["input_tokens"]),
            needed=writer.numbers.number(objective["needed_s"] * scale, digits),
            limit=writer.numbers.trimmed(limit * scale, 3),
        )
    return writer.say("objective", sessions=writer.numbers.number(objective["sessions_per_node"]))


def _facility(writer: Writer, housed: Mapping[str, Any]) -> list[tuple[str, str]]:
    numbers, unknown = writer.numbers, writer.text["unknown"]
    logs = housed["storage_logs_gib"]
    cost = writer.text["unknown_price"]
    if housed["usd_per_hour"] is not None:
        each = housed["usd_per_1k_requests"]
        cost = writer.say(
            "cost",
            hour=numbers.number(housed["usd_per_hour"], 2),
            month=numbers.number(housed["usd_per_month"], 0),
            requests=writer.say("cost_requests", value=numbers.number(each, 4)) if each is not None else "",
        )
    power = unknown
    if housed["nameplate_kw"] is not None:
        power = writer.say(
            "power",
            expected=numbers.number(housed["expected_kw"], 1),
            nameplate=numbers.number(housed["nameplate_kw"], 1),
        )
    heat = housed["heat_btu_per_hour"]
    return [
        (
            "m_rack",
            writer.say("rack", value=numbers.trimmed(housed["rack_units"], 1)) if housed["rack_units"] else unknown,
        ),
        ("m_power", power),
        ("m_heat", writer.say("heat", value=numbers.number(heat)) if heat else unknown),
        (
            "m_storage",
            writer.say(
                "storage_value",
                total=numbers.number(housed["storage_total_gib"], 1),
                weights=numbers.number(housed["storage_weights_gib"], 1),
                cache=numbers.number(housed["storage_cache_gib"], 0),
                logs=numbers.gib(logs, 1) if logs is not None else unknown,
                days=str(housed["log_retention_days"]),
            ),
        ),
        (
            "m_warm_up",
            writer.say(
                "warm_up", seconds=numbers.number(housed["warm_up_s"], 1), profile=writer.figures["storage"]["name"]
            ),
        ),
        ("m_cost", cost),
    ]


def _meaning(writer: Writer, name: str, scenario: Mapping[str, Any]) -> str:
    numbers = writer.numbers
    return writer.say(
        f"meaning_{name}",
        nodes=writer.nodes(scenario["nodes"]),
        needed=writer.nodes(scenario["needed_nodes"]),
        spare=writer.nodes(scenario["spare_nodes"]),
        headroom=numbers.percent(scenario["headroom"]),
        ratio=numbers.percent(scenario["budget_ratio"]),
        survivors=numbers.number(scenario["surviving_sessions"]),
        one_failure=numbers.number(scenario["sessions_after_one_failure"]),
        concurrency=writer.concurrency,
        coverage=writer.text["covers" if scenario["covers_nominal"] else "covers_not"],
    )
