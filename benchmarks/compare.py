"""Monolith, microservices and edge profile on one workload in one run, taking turns: what does each design cost?

    python -m benchmarks.compare [--quick] [--output build/compare.json] [--cpu-usd-per-hour PRICE]

All variants run at the same time and are asked in turn, so that what else the machine does hits them alike; idle ones
use next to no CPU. Every answer has 16 tokens, greedy, so that all do the same work. The parts:

    added     one request at a time, plain: what a request takes beyond embedding, search and generation
    closed    1, 4, 16 and 32 clients, streamed: time to first token, time a token, throughput, CPU time a request
    open      Poisson arrivals at half and at 0.8 of the slowest variant's throughput at 16 clients
    memory    RSS and PSS by process, boot time to a /ping of 200 (each variant alone)
    faults    the LLM killed, the vector service killed, memory refused: what is still answered, what is lost
    scaling   one and two LLM services of one thread each behind one orchestrator, at 16 clients
    cost      1,000 requests by the capacity model's prices

Intervals are 95 %, by bootstrap. The last line of the output is JSON, and so is the file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness import faults
from benchmarks.harness.arrivals import Sample, ask, closed_loop, open_loop, rounds_of
from benchmarks.harness.bootstrap import interval, mean, percentiles
from benchmarks.harness.costs import per_thousand
from benchmarks.harness.host import describe, in_words
from benchmarks.harness.process import ROOT
from benchmarks.harness.variants import EDGE, Variant, start, start_scaled

SCHEMA = "benchmarks.compare/1"
CLIENTS = (1, 4, 16, 32)
OPEN_SHARES = (0.5, 0.8)
ANSWER_TOKENS = 16
PARTS = "boot,added,load,faults,scaling,cost"
NAMES = ("monolith", "microservices", "edge")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, as the JSON document that the module describes."""
    drawn = random.Random(arguments.seed)
    bodies = _bodies()
    result: dict[str, Any] = {
        **_kept(arguments),
        "schema": SCHEMA,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "quick": arguments.quick,
        "settings": {"answer_tokens": ANSWER_TOKENS, "edge": EDGE, "seed": arguments.seed},
    }
    names = [name for name in NAMES if name not in arguments.without]
    parts = set(arguments.parts.split(","))

    def keep(part: str, figures: Any) -> None:
        result[part] = figures
        _save(result, arguments.output)

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        logs = Path(folder)
        if "boot" in parts:
            keep("boot", _boots(names, 1 if arguments.quick else 3, logs, drawn))
        if parts & {"added", "load", "faults"}:
            variants = [start(stack, name, logs / name) for name in names]
        if "added" in parts:
            keep("equal_answers", _equal_answers(variants, bodies))
            keep("added", _added(variants, bodies, 40 if arguments.quick else 200, drawn))
            keep("hops", _hops(variants))  # before there is a line to wait in
        if "load" in parts:
            keep("closed", _closed(variants, bodies, arguments.quick, drawn))
            keep("memory", {variant.name: _memory(variant) for variant in variants})
            keep("open", _open(variants, bodies, result["closed"], arguments.quick, drawn))
        if "faults" in parts:
            for variant in variants:
                if variant.name != "edge":
                    keep("faults", {**result.get("faults", {}), variant.name: _faults(variant)})
    if "scaling" in parts:
        with tempfile.TemporaryDirectory() as folder:
            keep("scaling", _scaling(bodies, 64 if arguments.quick else 192, Path(folder), drawn))
    if "cost" in parts:
        costs = per_thousand(
            arguments.model,
            arguments.gpu,
            arguments.cpu,
            context_tokens=4096,
            retrieve_s=result["added"]["monolith"]["stages"]["retrieve_s"]["value"],
            cpu_usd_per_hour=arguments.cpu_usd_per_hour,
        )
        keep("cost", costs)
    return result


def _save(result: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _kept(arguments: argparse.Namespace) -> dict[str, Any]:
    """What an earlier run measured of the parts that this one leaves out."""
    if arguments.parts == PARTS or not arguments.output.exists():
        return {}
    kept: dict[str, Any] = json.loads(arguments.output.read_text(encoding="utf-8"))
    return kept if kept["schema"] == SCHEMA and kept["machine"] == _machine() else {}


def _bodies() -> list[dict[str, Any]]:
    lines = (ROOT / "benchmarks" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    same = {"min_new_tokens": ANSWER_TOKENS, "max_new_tokens": ANSWER_TOKENS, "min_score": 0.0}
    return [{"query": json.loads(line)["question"], **same} for line in lines]


def _machine() -> dict[str, Any]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {**describe(), "ram_bytes": pages * size, "python": platform.python_version(), "system": platform.platform()}


def _boots(names: Sequence[str], repeats: int, logs: Path, drawn: random.Random) -> dict[str, Any]:
    """Seconds from the start of `serve` to a /ping of 200, each variant alone on the machine."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    turns = [name for _ in range(repeats) for name in drawn.sample(names, len(names))]
    for name in tqdm(turns, desc="boot", unit="start"):
        with ExitStack() as stack:
            seconds[name].append(start(stack, name, logs / f"boot-{name}").boot_s)
    return {name: mean(found) for name, found in seconds.items()}


def _equal_answers(variants: Sequence[Variant], bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many of the questions each variant answers with the monolith's very words."""
    texts = {variant.name: [_asked(variant, body).text for body in bodies[:24]] for variant in variants}
    return {
        name: {
            "same": sum(here == there for here, there in zip(found, texts["monolith"], strict=True)),
            "of": len(found),
        }
        for name, found in texts.items()
    }


def _asked(variant: Variant, body: dict[str, Any]) -> Sample:
    with httpx.Client(base_url=variant.url, timeout=60) as client:
        return ask(client, body, stream=False)


def _added(
    variants: Sequence[Variant], bodies: Sequence[dict[str, Any]], count: int, drawn: random.Random
) -> dict[str, Any]:
    """One request at a time, the variants in turn: seconds beyond the models, and seconds by stage."""
    added: dict[str, list[float]] = {variant.name: [] for variant in variants}
    totals: dict[str, list[float]] = {variant.name: [] for variant in variants}
    stages: dict[str, dict[str, list[float]]] = {variant.name: {} for variant in variants}
    with ExitStack() as stack:
        clients = {
            variant.name: stack.enter_context(httpx.Client(base_url=variant.url, timeout=60)) for variant in variants
        }
        for body in tqdm(list(rounds_of(bodies, count, drawn)), desc="added latency", unit="round"):
            for variant in drawn.sample(list(variants), len(variants)):
                client = clients[variant.name]
                before = _model_s(client) if variant.name == "microservices" else 0.0
                sample = ask(client, body, stream=False)
                if sample.error or sample.timings is None:
                    raise RuntimeError(f"{variant.name}: {sample.error}")
                if variant.name == "microservices":
                    models_s = _model_s(client) - before
                else:
                    models_s = sample.timings["retrieve_s"] + sample.timings["generate_s"]
                added[variant.name].append(sample.total_s - models_s)
                totals[variant.name].append(sample.total_s)
                for stage, seconds in sample.timings.items():
                    stages[variant.name].setdefault(stage, []).append(seconds)
    return {
        name: {
            "added_s": percentiles(added[name]) | {"mean": mean(added[name])},
            "total_s": percentiles(totals[name]) | {"mean": mean(totals[name])},
            "stages": {stage: mean(seconds) for stage, seconds in stages[name].items()},
        }
        for name in added
    }


def _model_s(client: httpx.Client) -> float:
    """Seconds that the models behind the orchestrator have taken so far."""
    hops = client.get("/hops").json()
    return float(sum(hop["model_s"] for hop in hops.values()))


def _closed(
    variants: Sequence[Variant], bodies: Sequence[dict[str, Any]], quick: bool, drawn: random.Random
) -> dict[str, Any]:
    rounds = 2 if quick else 4
    result: dict[str, Any] = {}
    for clients in CLIENTS:
        requests = max(12, clients) if quick else max(24, 4 * clients)
        seen: dict[str, list[tuple[list[Sample], float, float]]] = {variant.name: [] for variant in variants}
        turns = [variant for _ in range(rounds) for variant in drawn.sample(list(variants), len(variants))]
        for variant in tqdm(turns, desc=f"{clients} clients", unit="turn"):
            before_s = variant.cpu_s()
            samples, wall_s = closed_loop(variant.url, list(rounds_of(bodies, requests, drawn)), clients)
            seen[variant.name].append((samples, wall_s, variant.cpu_s() - before_s))
        result[str(clients)] = {name: _figures(found) for name, found in seen.items()}
    return result


def _open(
    variants: Sequence[Variant],
    bodies: Sequence[dict[str, Any]],
    closed: dict[str, Any],
    quick: bool,
    drawn: random.Random,
) -> dict[str, Any]:
    slowest_per_s = min(figures["requests_per_s"]["value"] for figures in closed["16"].values())
    result: dict[str, Any] = {}
    for share in OPEN_SHARES:
        per_s = share * slowest_per_s
        seen: dict[str, list[tuple[list[Sample], float, float]]] = {variant.name: [] for variant in variants}
        for _ in tqdm(range(1 if quick else 3), desc=f"open loop, {per_s:.1f}/s", unit="round"):
            arrivals = list(rounds_of(bodies, 32 if quick else 64, drawn))
            seed = drawn.random()
            for variant in drawn.sample(list(variants), len(variants)):
                before_s = variant.cpu_s()
                samples, wall_s = open_loop(variant.url, arrivals, per_s, random.Random(seed))
                seen[variant.name].append((samples, wall_s, variant.cpu_s() - before_s))
        result[f"{share:g}"] = {"per_s": per_s, **{name: _figures(found) for name, found in seen.items()}}
    return result


def _figures(turns: Sequence[tuple[list[Sample], float, float]]) -> dict[str, Any]:
    """Of one variant at one load, over its turns."""
    samples = [sample for found, _, _ in turns for sample in found]
    good = [sample for sample in samples if not sample.error]
    return {
        "requests": len(samples),
        "failed": sorted(sample.error for sample in samples if sample.error),
        "ttft_s": percentiles([sample.first_s for sample in good]),
        "tpot_s": percentiles([sample.tpot_s for sample in good if sample.tpot_s is not None]),
        "total_s": percentiles([sample.total_s for sample in good]),
        "requests_per_s": mean([sum(not sample.error for sample in found) / wall_s for found, wall_s, _ in turns]),
        "cpu_s_per_request": mean([cpu_s / len(found) for found, _, cpu_s in turns]),
    }


def _hops(variants: Sequence[Variant]) -> dict[str, Any]:
    """What crossed each hop of the microservices, an exchange: bytes each way, and seconds beyond the models."""
    variant = next((variant for variant in variants if variant.name == "microservices"), None)
    if variant is None:
        return {}
    totals = httpx.get(f"{variant.url}/hops").json()
    return {
        hop: {
            "exchanges": int(total["exchanges"]),
            "sent_bytes": total["sent_bytes"] / total["exchanges"],
            "received_bytes": total["received_bytes"] / total["exchanges"],
            "total_s": total["total_s"] / total["exchanges"],
            "added_s": (total["total_s"] - total["model_s"]) / total["exchanges"],
        }
        for hop, total in totals.items()
    }


def _memory(variant: Variant) -> dict[str, Any]:
    parts = variant.memory()
    return {
        "processes": {role: {"rss_bytes": part.rss_bytes, "pss_bytes": part.pss_bytes} for role, part in parts.items()},
        "rss_bytes": sum(part.rss_bytes for part in parts.values()),
        "pss_bytes": sum(part.pss_bytes for part in parts.values()),
    }


def _faults(variant: Variant) -> dict[str, Any]:
    """What each fault does to it. A monolith has one process to kill: the one that holds everything."""
    done: dict[str, Any] = {}
    with tqdm(total=3, desc=f"faults, {variant.name}", unit="fault") as bar:
        for fault, harm, service in (
            ("llm_killed", faults.kill, "llm"),
            ("vector_killed", faults.kill, "vector"),
            ("memory_refused", faults.starve, "llm"),
        ):
            done[fault] = harm(variant, "monolith" if variant.name == "monolith" else service)
            bar.update()
    return done


def _scaling(bodies: Sequence[dict[str, Any]], requests: int, logs: Path, drawn: random.Random) -> dict[str, Any]:
    """Throughput at 16 clients with one and with two LLM services, taking turns."""
    with ExitStack() as stack:
        scaled = {count: start_scaled(stack, count, logs / str(count)) for count in (1, 2)}
        rates: dict[int, list[float]] = {count: [] for count in scaled}
        for _ in tqdm(range(4), desc="one and two LLM services", unit="round"):
            for count, variant in scaled.items():
                samples, wall_s = closed_loop(variant.url, list(rounds_of(bodies, requests // 4, drawn)), 16)
                rates[count].append(sum(not sample.error for sample in samples) / wall_s)
        memory = {count: _memory(variant) for count, variant in scaled.items()}
    gains = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        **{str(count): {"requests_per_s": mean(found), "memory": memory[count]} for count, found in rates.items()},
        "gain": interval(gains, lambda data: float(data.mean())),
    }


def show(result: dict[str, Any]) -> None:
    """The figures that the designs differ by, a row each, of the parts that were measured."""
    table = Table(title=in_words(result["machine"]))
    table.add_column("figure")
    for name in NAMES:
        table.add_column(name, justify="right")

    def row(title: str, form: str, part: Any, *path: str, times: float = 1.0) -> None:
        """One figure of every variant; no row where it was not measured."""
        found = [_at(part, name, *path) for name in NAMES]
        if any(figure is not None for figure in found):
            table.add_row(title, *("" if figure is None else format(times * figure, form) for figure in found))

    row("boot to /ping 200, s", ".1f", result.get("boot"), "value")
    row("added latency p50, ms", ".2f", result.get("added"), "added_s", "p50", "value", times=1e3)
    row("added latency mean, ms", ".2f", result.get("added"), "added_s", "mean", "value", times=1e3)
    row("answers equal to the monolith's", ".0f", result.get("equal_answers"), "same")
    for loop, unit in (("closed", "clients"), ("open", "of the slowest rate")):
        for load, found in result.get(loop, {}).items():
            row(f"{loop} loop, {load} {unit}: requests/s", ".1f", found, "requests_per_s", "value")
            row("  time to first token p50, ms", ".0f", found, "ttft_s", "p50", "value", times=1e3)
            row("  time to first token p95, ms", ".0f", found, "ttft_s", "p95", "value", times=1e3)
            row("  time a token p50, ms", ".2f", found, "tpot_s", "p50", "value", times=1e3)
            row("  CPU a request, ms", ".0f", found, "cpu_s_per_request", "value", times=1e3)
    row("RSS, MiB", ".0f", result.get("memory"), "rss_bytes", times=2**-20)
    row("PSS, MiB", ".0f", result.get("memory"), "pss_bytes", times=2**-20)
    for fault in ("llm_killed", "vector_killed", "memory_refused"):
        for mode in faults.MODES:
            row(f"{fault}: {mode} out for, s", ".1f", result.get("faults"), fault, "modes", mode, "out_s")
        row(f"{fault}: took place", ".0f", result.get("faults"), fault, "bit")
    console = Console(stderr=True)
    console.print(table)
    if "scaling" in result:
        gain = result["scaling"]["gain"]
        told = f"{gain['value']:.2f} × ({gain['low']:.2f} to {gain['high']:.2f})"
        console.print(f"two LLM services of one thread against one: {told}")


def _at(document: Any, *path: str) -> float | None:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return None if document is None else float(document)


def main() -> int:
    """Exit status 0; what fails to start raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests: wide intervals")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "compare.json")
    parser.add_argument("--without", action="append", default=[], choices=["microservices", "edge"])
    parser.add_argument("--parts", default=PARTS, help="measure these; the rest stays as it is in --output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="Qwen2.5-7B", help="of the cost comparison (default: %(default)s)")
    parser.add_argument("--gpu", default="ml.g5.xlarge", help="its GPU instance (default: %(default)s)")
    parser.add_argument("--cpu", default="ml.c5.2xlarge", help="its CPU instance (default: %(default)s)")
    parser.add_argument("--cpu-usd-per-hour", type=float, help="the CPU instance's price, which the catalogue lacks")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with it
    result = measure(arguments)
    show(result)
    _save(result, arguments.output)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
