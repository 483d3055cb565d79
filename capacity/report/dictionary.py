"""Section 8: every parameter with its origin, value, meaning and importance."""

from __future__ import annotations

from capacity.report.document import Block, Paragraph, Table
from capacity.report.writer import SCENARIOS, Writer


def dictionary(writer: Writer) -> list[Block]:
    """The table of parameters and its note."""
    text = writer.text
    head = (
        text["head_parameter"],
        text["head_origin"],
        text["head_here"],
        text["head_description"],
        text["head_importance"],
    )
    rows = tuple(
        (f"**{name}**", text[f"o_{origin}"], value, text[f"d_{key}"], text[f"i_{key}"])
        for name, key, origin, value in _parameters(writer)
    )
    return [Paragraph(text["dictionary_intro"]), Table(head, rows, wide=True), Paragraph(text["dictionary_note"])]


def _parameters(writer: Writer) -> list[tuple[str, str, str, str]]:
    """(name, key of its texts, origin, value)."""
    model, load, numbers, unknown = writer.model, writer.load, writer.numbers, writer.text["unknown"]
    scenarios = [writer.scenario(name) for name in SCENARIOS]

    def each(field: str) -> str:
        return " / ".join(numbers.percent(scenario[field]) for scenario in scenarios)

    available = scenarios[0]["availability"]
    weights = load["weights_dtype"] or model["quantization"] or writer.text["as_published"]
    return [
        ("num_layers", "num_layers", "model", str(model["layers"])),
        ("num_key_value_heads", "kv_heads", "model", str(model["kv_heads"] or model["latent_dim"] or unknown)),
        ("head_dim", "head_dim", "model", str(model["head_dim"] or model["latent_dim"] or unknown)),
        ("attention_pattern", "attention_pattern", "model", model["attention_pattern"]),
        ("effective_context", "context", "product", writer.context),
        ("concurrency", "concurrency", "product", writer.concurrency),
        (
            "input_tokens, output_tokens",
            "input_output",
            "product",
            f"{numbers.number(load['input_tokens'])}, {numbers.number(load['output_tokens'])}",
        ),
        ("kv_precision", "kv_dtype", "runtime", writer.kv_dtype),
        ("weights_precision", "weights_dtype", "runtime", weights),
        ("kv_budget_ratio", "budget_ratio", "runtime", each("budget_ratio")),
        ("utilization", "utilization", "runtime", numbers.percent(load["utilization"])),
        ("runtime_overhead_gib", "overhead", "runtime", numbers.gib(scenarios[1]["overhead_gib"])),
        ("tensor_parallel", "tensor_parallel", "runtime", str(writer.figures["tensor_parallel"])),
        ("block_size", "block_size", "runtime", str(load["block_size_tokens"])),
        ("device_memory", "memory", "hardware", numbers.gib(writer.hardware["device_memory_gib"], 2)),
        ("peak_headroom_ratio", "headroom", "resilience", each("headroom")),
        ("ha_mode", "ha", "resilience", " / ".join(scenario["ha"] for scenario in scenarios)),
        (
            "node_availability",
            "node_availability",
            "resilience",
            numbers.percent(available["node_availability"], 2) if available else unknown,
        ),
    ]
