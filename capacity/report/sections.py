"""The report's eight sections, title and colophon, from figures and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capacity.report.consolidated import consolidated
from capacity.report.dictionary import dictionary
from capacity.report.document import Block, Bullets, Chart, Heading, Paragraph, ReportDocument, Section, Table, bullets
from capacity.report.rationale import rationale
from capacity.report.writer import SCENARIOS, Writer


def compose(figures: Mapping[str, Any], language: str) -> ReportDocument:
    """The whole report in one language; raises UnknownName for a language that is not supported."""
    writer = Writer(figures, language)
    hardware, text = writer.hardware, writer.text
    server = writer.say(
        "server",
        name=hardware["name"],
        devices=str(hardware["devices"]),
        device=hardware["device"],
        memory=writer.numbers.trimmed(hardware["marketing_gb"], 1),
    )
    blocks = [
        _summary(writer),
        _scenarios(writer),
        consolidated(writer),
        rationale(writer),
        _comparison(writer),
        _risks(writer),
        _recommendation(writer),
        dictionary(writer),
    ]
    return ReportDocument(
        language=writer.language,
        title=text["title"],
        subtitle=text["subtitle"],
        facts=(
            (text["fact_date"], writer.numbers.date(figures["generated_at"])),
            (text["fact_model"], writer.model["name"]),
            (text["fact_load"], writer.say("load", concurrency=writer.concurrency, context=writer.context)),
            (text["fact_server"], server),
        ),
        sections=tuple(Section(number, text[f"s{number}"], tuple(found)) for number, found in enumerate(blocks, 1)),
        colophon_title=text["colophon"],
        colophon=(
            (text["colophon_generated"], writer.numbers.moment(figures["generated_at"])),
            (text["colophon_method"], text[f"method_{figures['method']}"]),
            (text["colophon_model"], f"{writer.model['source']} ({writer.confidence(writer.model['confidence'])})"),
            (text["colophon_server"], f"{hardware['source']} ({writer.confidence(hardware['confidence'])})"),
        ),
        closing=text["closing"],
    )


def _summary(writer: Writer) -> list[Block]:
    model, load, recommended = writer.model, writer.load, writer.scenario("recommended")
    numbers = writer.numbers
    heads = writer.say("summary_heads", kv_heads=str(model["kv_heads"])) if model["kv_heads"] else ""
    per_token = writer.bytes(load["kv_bytes_per_token"])
    constant = load["kv_constant_bytes"]
    line = (
        writer.say("summary_line_constant", constant=writer.bytes(constant), per_token=per_token)
        if constant
        else writer.say("summary_line_flat", per_token=per_token)
    )
    server = writer.hardware["name"]
    if recommended["nodes"]:
        conclusion = writer.say(
            "summary_conclusion",
            servers=writer.servers(recommended["nodes"]),
            needed=numbers.number(recommended["needed_nodes"]),
            headroom=numbers.percent(recommended["headroom"]),
            spare=str(recommended["spare_nodes"]),
        )
    else:
        conclusion = writer.say("summary_infeasible", server=server)
    method = (
        writer.say(
            "summary_method_reference",
            overhead=numbers.gib(recommended["overhead_gib"], 0),
            ratio=numbers.percent(recommended["budget_ratio"]),
        )
        if writer.is_reference
        else writer.text["summary_method_exact"]
    )
    return [
        Paragraph(
            writer.say(
                "summary_scope",
                model=model["name"],
                concurrency=writer.concurrency,
                context=writer.context,
                server=server,
            )
        ),
        Paragraph(
            writer.say(
                "summary_limit",
                layers=str(model["layers"]),
                pattern=writer.text[f"pattern_{model['attention_pattern']}"],
                heads=heads,
                kv_session=writer.size(recommended["kv_per_session_gib"]),
                kv_dtype=writer.kv_dtype,
                line=line,
            )
        ),
        Paragraph(conclusion),
        Paragraph(method),
    ]


def _scenarios(writer: Writer) -> list[Block]:
    text, rows = writer.text, []
    for name in SCENARIOS:
        scenario = writer.scenario(name)
        spare = scenario["spare_nodes"]
        feature = writer.say(
            "feature",
            headroom=writer.numbers.percent(scenario["headroom"]),
            spare=writer.say("spare_some", nodes=writer.nodes(spare), count=str(spare))
            if spare
            else text["spare_none"],
            ratio=writer.numbers.percent(scenario["budget_ratio"]),
        )
        rows.append((f"**{text[name]}**", text[f"{name}_goal"], feature, text[f"{name}_risk"]))
    head = (text["head_scenario"], text["head_goal"], text["head_feature"], text["head_risk"])
    return [Paragraph(text["scenarios_intro"]), Table(head, tuple(rows)), Paragraph(text["scenarios_outro"])]


def _comparison(writer: Writer) -> list[Block]:
    text, numbers = writer.text, writer.numbers
    found = {name: writer.scenario(name) for name in SCENARIOS}

    def row(key: str, values: list[str]) -> tuple[str, ...]:
        return (f"**{text[key]}**", *values)

    spares = [scenario["spare_nodes"] for scenario in found.values()]
    rows = (
        row(
            "c_nodes",
            [
                writer.count(scenario["nodes"]) if scenario["nodes"] else text["not_feasible"]
                for scenario in found.values()
            ],
        ),
        row(
            "c_failures",
            [writer.say("failures", nodes=writer.nodes(count)) if count else text["failures_none"] for count in spares],
        ),
        row("c_survivors", [writer.count(scenario["surviving_sessions"]) for scenario in found.values()]),
        row("c_headroom", [numbers.percent(scenario["headroom"]) for scenario in found.values()]),
        row("c_ttft", [_brief(writer, scenario["latency"], "ttft", "s") for scenario in found.values()]),
        row("c_tpot", [_brief(writer, scenario["latency"], "tpot", "ms") for scenario in found.values()]),
        row("c_power", [_power(writer, scenario) for scenario in found.values()]),
        row("c_risk", [text["risk_high"], text["risk_medium"], text["risk_low"]]),
        row("c_complexity", [text["complexity_low"], text["complexity_medium"], text["complexity_high"]]),
        row("c_capex", [writer.capex(scenario) for scenario in found.values()]),
    )
    recommended = found["recommended"]
    conclusion = (
        writer.say(
            "compare_conclusion",
            capex=writer.capex(recommended),
            headroom=numbers.percent(recommended["headroom"]),
            spare=writer.nodes(recommended["spare_nodes"]),
            ideal=writer.nodes(found["ideal"]["nodes"]),
        )
        if recommended["nodes"]
        else text["compare_conclusion_same"]
    )
    head = (text["head_criterion"], *(text[name] for name in SCENARIOS))
    blocks: list[Block] = [Paragraph(text["compare_intro"]), Table(head, rows)]
    if recommended["nodes"]:
        blocks.append(Chart("scenarios", text["chart_scenarios"]))
    return [*blocks, Paragraph(conclusion)]


def _brief(writer: Writer, latency: Mapping[str, Any] | None, name: str, unit: str) -> str:
    if latency is None:
        return "—"
    scale, digits = (1000, 1) if unit == "ms" else (1, 2)
    return f"{writer.numbers.number(latency[f'{name}_s'] * scale, digits)} {unit}"


def _power(writer: Writer, scenario: Mapping[str, Any]) -> str:
    housed = scenario["facility"]
    if not housed or housed["expected_kw"] is None:
        return "—"
    return f"{writer.numbers.number(housed['expected_kw'], 1)} kW"


def _risks(writer: Writer) -> list[Block]:
    text, minimum = writer.text, writer.scenario("minimum")
    blocks: list[Block] = []
    if minimum["nodes"]:
        blocks += [
            Heading(text["risk_limit"]),
            bullets(
                [
                    writer.say(
                        "risk_limit_1",
                        nodes=writer.nodes(minimum["nodes"]),
                        one_failure=writer.count(minimum["sessions_after_one_failure"]),
                        concurrency=writer.concurrency,
                    ),
                    writer.say(
                        "risk_limit_2", capacity=writer.numbers.number(minimum["nodes"] * minimum["sessions_per_node"])
                    ),
                    text["risk_limit_3"],
                ]
            ),
        ]
    blocks += [
        Heading(text["risk_choices"]),
        bullets(
            [
                writer.say("risk_kv", kv_dtype=writer.kv_dtype),
                writer.say("risk_context", context=writer.context),
                text["risk_ratio"],
            ]
        ),
    ]
    if any(point["sessions_per_node"] for point in writer.figures["curve"]):
        blocks += [Chart("curve", text["chart_curve"]), _curve(writer)]
    blocks += [
        Heading(text["risk_consequences"]),
        bullets([text["risk_queue"], text["risk_tail"], text["risk_partial"]]),
        Heading(text["alerts_heading"]),
        _alerts(writer),
    ]
    return blocks


def _curve(writer: Writer) -> Table:
    """The curve's points."""
    points = writer.figures["curve"]
    head = (writer.text["curve_table"], *(writer.numbers.number(point["context_tokens"]) for point in points))
    row = (writer.text["m_sessions"], *(writer.numbers.number(point["sessions_per_node"]) for point in points))
    return Table(head, (row,), wide=True)


def _alerts(writer: Writer) -> Bullets | Paragraph:
    items = []
    storage = writer.figures["storage"]
    shown = f"{storage['name']} ({writer.numbers.trimmed(storage['read_gb_s'], 3)} GB/s"
    if storage["read_p99_ms"] is not None:
        shown += f", P99 {writer.numbers.trimmed(storage['read_p99_ms'], 2)} ms"
    for alert in writer.figures["alerts"]:
        values = {
            "context": writer.numbers.number(alert.get("context_tokens", 0)),
            "storage": f"{shown})",
            "input": writer.numbers.number(writer.load["input_tokens"]),
            "output": writer.numbers.number(writer.load["output_tokens"]),
            "sessions": writer.numbers.number(alert.get("sessions", 0)),
        }
        items.append(writer.say(f"alert_{alert['code']}", **values))
    return bullets(items) if items else Paragraph(writer.text["alerts_none"])


def _recommendation(writer: Writer) -> list[Block]:
    text, recommended, numbers = writer.text, writer.scenario("recommended"), writer.numbers
    if not recommended["nodes"]:
        refusal = writer.figures["refusal"]
        need = sum(refusal["need_bytes"].values())
        short = refusal["short_by_bytes"]
        sizes = {"need": need, "have": refusal["have_bytes"], "short": short}
        blocks: list[Block] = [
            Paragraph(writer.say("recommend_not", **{name: writer.bytes(size) for name, size in sizes.items()}))
        ]
        if refusal["fixes"]:
            fixes = [text[f"fix_{fix['kind']}"] + f": {fix['flags']}" for fix in refusal["fixes"]]
            blocks += [Paragraph(text["recommend_fixes"]), bullets(fixes, numbered=True)]
        return blocks
    governed = writer.figures["governance"]
    servers = writer.servers(recommended["nodes"])
    return [
        Paragraph(
            writer.say(
                "recommend",
                concurrency=writer.concurrency,
                context=writer.context,
                servers=servers,
                needed=numbers.number(recommended["needed_nodes"]),
                spare=str(recommended["spare_nodes"]),
            )
        ),
        Paragraph(
            writer.say(
                "recommend_why",
                headroom=numbers.percent(recommended["headroom"]),
                survivors=numbers.number(recommended["surviving_sessions"]),
                spare=writer.nodes(recommended["spare_nodes"]),
                ratio=numbers.percent(recommended["budget_ratio"]),
                capex=writer.capex(recommended),
            )
        ),
        Heading(text["governance"]),
        bullets(
            [
                writer.say("g_context", context=writer.context),
                writer.say(
                    "g_alert",
                    alert=numbers.number(governed["alert_sessions"]),
                    share=numbers.percent(governed["alert_share"]),
                    concurrency=writer.concurrency,
                ),
                writer.say("g_kv", kv_dtype=writer.kv_dtype),
                writer.say("g_budget", ratio=numbers.percent(governed["budget_ratio"])),
            ],
            numbered=True,
        ),
        Paragraph(writer.say("next_steps", servers=servers)),
    ]
