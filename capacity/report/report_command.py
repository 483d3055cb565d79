"""The commands report and compare, in any output format."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from capacity.commands import measurements_of, request_of
from capacity.errors import CapacityError, InvalidInput
from capacity.planning.scenarios import POLICIES, Policy
from capacity.report import markdown, page, terminal
from capacity.report.comparison import ComparisonCase, chart, comparison
from capacity.report.comparison import compose as compose_comparison
from capacity.report.figures import ReportOptions, figures
from capacity.report.sections import compose
from capacity.report.writer import Writer

_SUFFIXES = {".md": "md", ".html": "html", ".htm": "html", ".json": "json", ".txt": "table"}
# A table of more rows than this is too long to compare.
_MOST_VARIANTS = 24


def run_report(args: argparse.Namespace) -> int:
    """Report: the scenarios of one workload, in one format and language."""
    request = request_of(args)
    options = _options(args, args.model, args.hardware)
    found = figures(request, options)
    output_format = _format(args)
    if output_format == "json":
        return _write(args, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    document = compose(found, args.lang)
    if output_format == "html":
        return _write(args, page.render(document, Writer(found, args.lang)))
    return _write(args, markdown.render(document) if output_format == "md" else terminal.render(document))


def run_compare(args: argparse.Namespace) -> int:
    """Compare: every combination of the models, servers and precisions given."""
    choices = list(product(args.model, args.hardware, args.kv_dtype or [None], args.weights_dtype or [None]))
    if len(choices) > _MOST_VARIANTS:
        raise InvalidInput("compare", f"{len(choices)} combinations are more than {_MOST_VARIANTS}")
    made = [_variant(args, *choice) for choice in choices]
    compared = comparison(made, _options(args, None, None))
    document, writer = compose_comparison(compared, args.lang)
    output_format = _format(args)
    if output_format == "json":
        rows: list[dict[str, Any]] = [
            {key: value for key, value in row.items() if key != "base"} for row in compared["variants"]
        ]
        return _write(args, json.dumps({**compared, "variants": rows}, indent=1, ensure_ascii=False) + "\n")
    if output_format == "html":
        return _write(args, page.render(document, writer, after=chart(compared, writer)))
    return _write(args, markdown.render(document) if output_format == "md" else terminal.render_tables(document))


def _variant(
    args: argparse.Namespace, model: str, hardware: str, kv: str | None, weights: str | None
) -> ComparisonCase:
    own = argparse.Namespace(
        **{**vars(args), "model": model, "hardware": hardware, "kv_dtype": kv, "weights_dtype": weights}
    )
    words = [
        model if len(args.model) > 1 or len(args.hardware) == 1 else "",
        hardware if len(args.hardware) > 1 else "",
        f"KV {kv}" if kv else "",
        weights or "",
    ]
    return ComparisonCase(
        " · ".join(word for word in words if word), model, hardware, kv, weights, partial(request_of, own)
    )


def _options(args: argparse.Namespace, model: str | None, hardware: str | None) -> ReportOptions:
    return ReportOptions(
        method=args.method,
        policies=_policies(args),
        overhead_gib=args.overhead_gib,
        node_availability=args.node_availability,
        ttft_s=args.ttft,
        tpot_s=args.tpot,
        profile=args.storage_profile,
        measured=measurements_of(args).latency,
        requested_name=Path(model).name if model else None,
        hardware_name=hardware if hardware and not hardware.endswith(".json") and hardware != "custom" else None,
    )


def _policies(args: argparse.Namespace) -> dict[str, Policy]:
    """The reference's policies with the flags' overrides: one value for all scenarios, or three."""
    found = {}
    for place, (name, policy) in enumerate(POLICIES.items()):
        found[name] = Policy(
            headroom=_of_three(args.headroom, place, policy.headroom),
            spare_nodes=int(_of_three(args.spare_nodes, place, policy.spare_nodes)),
            ratio=_of_three(args.budget_ratio, place, policy.ratio),
        )
    return found


def _of_three(values: list[float] | None, place: int, default: float) -> float:
    if not values:
        return default
    return values[place] if len(values) > 1 else values[0]


def _format(args: argparse.Namespace) -> str:
    if args.json:
        return "json"
    if args.format:
        return str(args.format)
    return _SUFFIXES.get(Path(args.output).suffix.lower(), "md") if args.output else "table"


def _write(args: argparse.Namespace, text: str) -> int:
    if not args.output:
        sys.stdout.write(text)
        return 0
    try:
        Path(args.output).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CapacityError(f"--output: {args.output}: {error.strerror or error}") from error
    return 0
