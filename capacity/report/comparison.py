"""Several models, precisions or servers side by side: one row a variant, and one chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from capacity.errors import CapacityError
from capacity.planning.workload import Request
from capacity.report.charts import variants
from capacity.report.document import Block, Heading, Paragraph, ReportDocument, Section, Table, bullets
from capacity.report.figures import ReportOptions, figures
from capacity.report.page import figure
from capacity.report.writer import SCENARIOS, Writer

SCHEMA = "capacity.comparison/1"


@dataclass(frozen=True, slots=True)
class ComparisonCase:
    """One row: its label, what it varies, and a function that builds its request, which may raise CapacityError."""

    label: str
    model: str
    hardware: str
    kv_dtype: str | None
    weights_dtype: str | None
    request: Callable[[], Request]


def comparison(cases: Sequence[ComparisonCase], options: ReportOptions) -> dict[str, Any]:
    """Figures of every case as a JSON object; one whose request is invalid has its error instead."""
    rows, workload = [], None
    for case in cases:
        row: dict[str, Any] = {
            "label": case.label,
            "model": case.model,
            "hardware": case.hardware,
            "kv_dtype": case.kv_dtype,
            "weights_dtype": case.weights_dtype,
            "error": None,
        }
        try:
            found = figures(case.request(), options)
        except CapacityError as error:
            rows.append({**row, "error": str(error), "scenarios": None})
            continue
        workload = found["workload"]
        rows.append({**row, "kv_dtype": workload["kv_dtype"], "scenarios": found["scenarios"], "base": found})
    return {"schema": SCHEMA, "variants": rows, "workload": workload}


def first_figures(compared: dict[str, Any]) -> dict[str, Any]:
    """The figures of the first case that could be sized; raises CapacityError where none could."""
    for row in compared["variants"]:
        if row.get("base"):
            found: dict[str, Any] = row["base"]
            return found
    raise CapacityError("; ".join(dict.fromkeys(row["error"] for row in compared["variants"])))


def compose(compared: dict[str, Any], language: str) -> tuple[ReportDocument, Writer]:
    """The comparison as a document of one section, and its writer."""
    base = first_figures(compared)
    writer = Writer(base, language)
    text, numbers = writer.text, writer.numbers
    head = (
        text["v_variant"],
        text["m_kv_session"],
        text["m_sessions"],
        *(f"{text['c_nodes']}: {text[name]}" for name in SCENARIOS),
        text["c_ttft"],
        text["c_tpot"],
        text["m_cost"],
    )
    rows: list[tuple[str, ...]] = []
    failed: list[str] = []
    for row in compared["variants"]:
        scenarios = row["scenarios"]
        if scenarios is None:
            rows.append((f"**{row['label']}**", *("—" for _ in head[1:])))
            failed.append(f"**{row['label']}:** {row['error']}")
            continue
        recommended = scenarios["recommended"]
        latency, housed = recommended["latency"], recommended["facility"]
        cost = housed["usd_per_month"] if housed else None
        rows.append(
            (
                f"**{row['label']}**",
                writer.size(recommended["kv_per_session_gib"]),
                numbers.number(recommended["sessions_per_node"]),
                *(writer.count(scenarios[name]["nodes"]) if scenarios[name]["nodes"] else "—" for name in SCENARIOS),
                f"{numbers.number(latency['ttft_s'], 2)} s" if latency else "—",
                f"{numbers.number(latency['tpot_s'] * 1000, 1)} ms" if latency else "—",
                f"US$ {numbers.number(cost)}/{'mês' if writer.language == 'pt-BR' else 'month'}" if cost else "—",
            )
        )
    blocks: list[Block] = [Table(head, tuple(rows), wide=True), Paragraph(text["a_total"] + ".")]
    if failed:
        blocks += [Heading(text["not_sized"]), bullets(failed)]
    document = ReportDocument(
        language=writer.language,
        title=text["compare_title"],
        subtitle=writer.say("load", concurrency=writer.concurrency, context=writer.context),
        facts=((text["fact_date"], numbers.date(base["generated_at"])),),
        sections=(Section(1, text["compare_title"], tuple(blocks)),),
        colophon_title=text["colophon"],
        colophon=((text["colophon_method"], text[f"method_{base['method']}"]),),
        closing=text["closing"],
    )
    return document, writer


def chart(compared: dict[str, Any], writer: Writer) -> str:
    """The chart of the comparison: nodes of the recommended scenario."""
    rows = [
        (row["label"], row["scenarios"]["recommended"] if row["scenarios"] else {"nodes": None})
        for row in compared["variants"]
    ]
    return figure(variants(writer, rows), writer.text["chart_variants"])
