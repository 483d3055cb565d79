"""Section 4: formulas, parameters, assumptions and meaning; and the memory of a rank, term by term."""

from __future__ import annotations

from capacity.report.document import Block, Chart, Heading, Paragraph, Table
from capacity.report.writer import Writer


def rationale(writer: Writer) -> list[Block]:
    """The table of formulas, and the memory of one GPU with its chart."""
    text = writer.text
    head = tuple(
        text[key] for key in ("head_result", "head_formula", "head_parameters", "head_assumption", "head_meaning")
    )
    rows = [(f"**{text[f'r_{key}']}**", *cells) for key, cells in _rows(writer)]
    terms = tuple(
        (text[f"term_{term['name']}"], writer.size(term["gib"]), text[f"label_{term['label']}"])
        for term in writer.figures["terms"]
    )
    return [
        Paragraph(text["rationale_intro"]),
        Table(head, tuple(rows), wide=True),
        Heading(writer.on_device("memory_heading")),
        Chart("memory", writer.on_device("chart_memory")),
        Table((text["head_term"], text["head_value"], text["head_label"]), terms),
    ]


def _rows(writer: Writer) -> list[tuple[str, tuple[str, ...]]]:
    text, numbers, model, load = writer.text, writer.numbers, writer.model, writer.load
    recommended = writer.scenario("recommended")
    kinds = ", ".join(f"{count} {text[f'kind_{kind}']}" for kind, count in model["layer_kinds"].items())
    pattern = model["attention_pattern"]
    formula = text["f_latent" if pattern == "latent" else "f_full" if pattern == "full" else "f_hybrid"]
    session = writer.size(recommended["kv_per_session_gib"])
    method = "reference" if writer.is_reference else "exact"
    overhead, total = numbers.gib(recommended["overhead_gib"]), numbers.gib(recommended["node_memory_gib"])
    ratio = numbers.percent(recommended["budget_ratio"])
    kv = writer.say(
        "p_kv",
        layers=str(model["layers"]),
        kinds=kinds,
        context=writer.context,
        kv_dtype=writer.kv_dtype,
        bytes=numbers.trimmed(load["kv_element_bytes"], 2),
    )
    budget = writer.say(
        f"p_budget_{method}", total=total, overhead=overhead, ratio=ratio, ranks=str(writer.figures["tensor_parallel"])
    )
    sessions = writer.say("p_sessions", budget=numbers.gib(recommended["budget_per_node_gib"]), session=session)
    nodes = writer.say(
        "p_nodes",
        concurrency=writer.concurrency,
        headroom=numbers.percent(recommended["headroom"]),
        sessions=numbers.number(recommended["sessions_per_node"]),
        spare=str(recommended["spare_nodes"]),
    )
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("kv", (formula, kv, text[f"a_kv_{method}"], text["w_kv"])),
        (
            "total",
            (
                text["f_total"],
                writer.say("p_total", session=session, concurrency=writer.concurrency),
                text["a_total"],
                text["w_total"],
            ),
        ),
        ("budget", (text[f"f_budget_{method}"], budget, text[f"a_budget_{method}"], text["w_budget"])),
        ("sessions", (text[f"f_sessions_{method}"], sessions, text["a_sessions"], text["w_sessions"])),
        ("nodes", (text["f_nodes"], nodes, text["a_nodes"], text["w_nodes"])),
    ]
    latency = recommended["latency"]
    if latency and latency["label"] == "estimated":
        parameters = writer.say(
            "p_latency",
            input=numbers.number(load["input_tokens"]),
            output=numbers.number(load["output_tokens"]),
            batch=numbers.number(latency["batch_per_replica"]),
        )
        assumed = writer.say("a_latency", band=numbers.percent(latency["band"]))
        rows.append(("latency", (text["f_latency"], parameters, assumed, text["w_latency"])))
    return rows
