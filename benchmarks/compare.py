"""Compares monolith, microservices and the edge profile on the same workload, interleaved in one run.

    python -m benchmarks.compare [--quick] [--output build/compare.json] [--cpu-usd-per-hour PRICE]

All variants run at the same time and are measured in turns, so that other load on the machine affects them equally;
idle ones use hardly any CPU. Every answer has 16 tokens, greedy, so that all do the same work. The parts:

    added     one request at a time, not streamed: the latency beyond embedding, search and generation
    closed    1, 4, 16 and 32 clients, streamed: time to first token, time per token, throughput, CPU time per request
    open      Poisson arrivals at 0.5 and 0.8 of the slowest variant's throughput at 16 clients
    memory    RSS and PSS by process, boot time to a /ping of 200 (each variant alone)
    faults    the LLM killed, the vector service killed, allocations refused: requests lost, and for how long
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
from benchmarks.harness.arrivals import LoadTurn, RequestSample, ask, closed_loop, load_figures, open_loop, rounds_of
from benchmarks.harness.bootstrap import interval, mean, percentiles
from benchmarks.harness.costs import per_thousand
from benchmarks.harness.host import describe, machine_line
from benchmarks.harness.process import ROOT
from benchmarks.harness.questions import question_texts
from benchmarks.harness.variants import EDGE, RunningVariant, start, start_scaled

SCHEMA = "benchmarks.compare/1"
CLIENTS = (1, 4, 16, 32)
OPEN_SHARES = (0.5, 0.8)
ANSWER_TOKENS = 16
PARTS = "boot,added,load,faults,scaling,cost"
NAMES = ("monolith", "microservices", "edge")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parts in `arguments`, as a JSON document."""
    rng = random.Random(arguments.seed)
    bodies = _bodies()
    result: dict[str, Any] = {
        **_earlier(arguments),
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
            keep("boot", _boots(names, 1 if arguments.quick else 3, logs, rng))
        if parts & {"added", "load", "faults"}:
            variants = [start(stack, name, logs / name) for name in names]
        if "added" in parts:
            keep("equal_answers", _equal_answers(variants, bodies))
            keep("added", _added(variants, bodies, 40 if arguments.quick else 200, rng))
            keep("hops", _service_calls(variants))  # before requests queue
        if "load" in parts:
            keep("closed", _closed(variants, bodies, arguments.quick, rng))
            keep("memory", {variant.name: variant.memory() for variant in variants})
            keep("open", _open(variants, bodies, result["closed"], arguments.quick, rng))
        if "faults" in parts:
            for variant in variants:
                if variant.name != "edge":
                    keep("faults", {**result.get("faults", {}), variant.name: faults.all_faults(variant)})
    if "scaling" in parts:
        with tempfile.TemporaryDirectory() as folder:
            keep("scaling", _scaling(bodies, 64 if arguments.quick else 192, Path(folder), rng))
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


def _earlier(arguments: argparse.Namespace) -> dict[str, Any]:
    """The results of an earlier run on this machine, for the parts that this run skips."""
    if arguments.parts == PARTS or not arguments.output.exists():
        return {}
    earlier: dict[str, Any] = json.loads(arguments.output.read_text(encoding="utf-8"))
    return earlier if earlier["schema"] == SCHEMA and earlier["machine"] == _machine() else {}


def _bodies() -> list[dict[str, Any]]:
    options = {"min_new_tokens": ANSWER_TOKENS, "max_new_tokens": ANSWER_TOKENS, "min_score": 0.0}
    return [{"query": question, **options} for question in question_texts()]


def _machine() -> dict[str, Any]:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {**describe(), "ram_bytes": pages * size, "python": platform.python_version(), "system": platform.platform()}


def _boots(names: Sequence[str], repeats: int, logs: Path, rng: random.Random) -> dict[str, Any]:
    """Seconds from the start of `serve` to a /ping of 200, each variant running alone."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    turns = [name for _ in range(repeats) for name in rng.sample(names, len(names))]
    for name in tqdm(turns, desc="boot", unit="start"):
        with ExitStack() as stack:
            seconds[name].append(start(stack, name, logs / f"boot-{name}").boot_s)
    return {name: mean(found) for name, found in seconds.items()}


def _equal_answers(variants: Sequence[RunningVariant], bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many of the questions each variant answers with exactly the monolith's text."""
    texts = {variant.name: [_answer(variant, body).text for body in bodies[:24]] for variant in variants}
    return {
        name: {
            "same": sum(here == there for here, there in zip(found, texts["monolith"], strict=True)),
            "of": len(found),
        }
        for name, found in texts.items()
    }


def _answer(variant: RunningVariant, body: dict[str, Any]) -> RequestSample:
    with httpx.Client(base_url=variant.url, timeout=60) as client:
        return ask(client, body, stream=False)


def _added(
    variants: Sequence[RunningVariant], bodies: Sequence[dict[str, Any]], count: int, rng: random.Random
) -> dict[str, Any]:
    """One request at a time, the variants in turns: seconds beyond the models, and seconds by stage."""
    added: dict[str, list[float]] = {variant.name: [] for variant in variants}
    totals: dict[str, list[float]] = {variant.name: [] for variant in variants}
    stages: dict[str, dict[str, list[float]]] = {variant.name: {} for variant in variants}
    with ExitStack() as stack:
        clients = {
            variant.name: stack.enter_context(httpx.Client(base_url=variant.url, timeout=60)) for variant in variants
        }
        for body in tqdm(list(rounds_of(bodies, count, rng)), desc="added latency", unit="round"):
            for variant in rng.sample(list(variants), len(variants)):
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
    """Total seconds that the services' models have computed so far."""
    calls = client.get("/hops").json()
    return float(sum(call["model_s"] for call in calls.values()))


def _closed(
    variants: Sequence[RunningVariant], bodies: Sequence[dict[str, Any]], quick: bool, rng: random.Random
) -> dict[str, Any]:
    rounds = 2 if quick else 4
    result: dict[str, Any] = {}
    for clients in CLIENTS:
        requests = max(12, clients) if quick else max(24, 4 * clients)
        measured: dict[str, list[LoadTurn]] = {variant.name: [] for variant in variants}
        turns = [variant for _ in range(rounds) for variant in rng.sample(list(variants), len(variants))]
        for variant in tqdm(turns, desc=f"{clients} clients", unit="turn"):
            before_s = variant.cpu_s()
            samples, wall_s = closed_loop(variant.url, list(rounds_of(bodies, requests, rng)), clients)
            measured[variant.name].append(LoadTurn(samples, wall_s, variant.cpu_s() - before_s))
        result[str(clients)] = {name: load_figures(found) for name, found in measured.items()}
    return result


def _open(
    variants: Sequence[RunningVariant],
    bodies: Sequence[dict[str, Any]],
    closed: dict[str, Any],
    quick: bool,
    rng: random.Random,
) -> dict[str, Any]:
    slowest_per_s = min(figures["requests_per_s"]["value"] for figures in closed["16"].values())
    result: dict[str, Any] = {}
    for share in OPEN_SHARES:
        per_s = share * slowest_per_s
        measured: dict[str, list[LoadTurn]] = {variant.name: [] for variant in variants}
        for _ in tqdm(range(1 if quick else 3), desc=f"open loop, {per_s:.1f}/s", unit="round"):
            arrivals = list(rounds_of(bodies, 32 if quick else 64, rng))
            seed = rng.random()
            for variant in rng.sample(list(variants), len(variants)):
                before_s = variant.cpu_s()
                samples, wall_s = open_loop(variant.url, arrivals, per_s, random.Random(seed))
                measured[variant.name].append(LoadTurn(samples, wall_s, variant.cpu_s() - before_s))
        result[f"{share:g}"] = {"per_s": per_s, **{name: load_figures(found) for name, found in measured.items()}}
    return result


def _service_calls(variants: Sequence[RunningVariant]) -> dict[str, Any]:
    """Means per request between the microservices, by endpoint: bytes each way, and seconds beyond the models."""
    variant = next((variant for variant in variants if variant.name == "microservices"), None)
    if variant is None:
        return {}
    totals = httpx.get(f"{variant.url}/hops").json()
    return {
        endpoint: {
            "exchanges": int(total["exchanges"]),
            "sent_bytes": total["sent_bytes"] / total["exchanges"],
            "received_bytes": total["received_bytes"] / total["exchanges"],
            "total_s": total["total_s"] / total["exchanges"],
            "added_s": (total["total_s"] - total["model_s"]) / total["exchanges"],
        }
        for endpoint, total in totals.items()
    }


def _scaling(bodies: Sequence[dict[str, Any]], requests: int, logs: Path, rng: random.Random) -> dict[str, Any]:
    """Throughput at 16 clients with one and with two LLM services, in turns."""
    with ExitStack() as stack:
        scaled = {count: start_scaled(stack, count, logs / str(count)) for count in (1, 2)}
        rates: dict[int, list[float]] = {count: [] for count in scaled}
        for _ in tqdm(range(4), desc="one and two LLM services", unit="round"):
            for count, variant in scaled.items():
                samples, wall_s = closed_loop(variant.url, list(rounds_of(bodies, requests // 4, rng)), 16)
                rates[count].append(sum(not sample.error for sample in samples) / wall_s)
        memory = {count: variant.memory() for count, variant in scaled.items()}
    gains = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        **{str(count): {"requests_per_s": mean(found), "memory": memory[count]} for count, found in rates.items()},
        "gain": interval(gains, lambda data: float(data.mean())),
    }


def show(result: dict[str, Any]) -> None:
    """Print the main figures of the measured parts."""
    table = Table(title=machine_line(result["machine"]))
    table.add_column("figure")
    for name in NAMES:
        table.add_column(name, justify="right")

    def row(title: str, form: str, part: Any, *path: str, times: float = 1.0) -> None:
        """One figure of every variant; no row if it was not measured."""
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
            row("  time per token p50, ms", ".2f", found, "tpot_s", "p50", "value", times=1e3)
            row("  CPU per request, ms", ".0f", found, "cpu_s_per_request", "value", times=1e3)
    row("RSS, MiB", ".0f", result.get("memory"), "rss_bytes", times=2**-20)
    row("PSS, MiB", ".0f", result.get("memory"), "pss_bytes", times=2**-20)
    for fault in ("llm_killed", "vector_killed", "memory_refused"):
        for mode in faults.MODES:
            row(f"{fault}: {mode} unavailable for, s", ".1f", result.get("faults"), fault, "modes", mode, "out_s")
        row(f"{fault}: took place", ".0f", result.get("faults"), fault, "bit")
    console = Console(stderr=True)
    console.print(table)
    if "scaling" in result:
        gain = result["scaling"]["gain"]
        interval_text = f"{gain['value']:.2f} × ({gain['low']:.2f} to {gain['high']:.2f})"
        console.print(f"throughput of two LLM services of one thread relative to one: {interval_text}")


def _at(document: Any, *path: str) -> float | None:
    for name in path:
        if not isinstance(document, dict) or name not in document:
            return None
        document = document[name]
    return None if document is None else float(document)


def main() -> int:
    """Exit status 0; a variant that fails to start raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a fifth of the requests, wider intervals")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "compare.json")
    parser.add_argument("--without", action="append", default=[], choices=["microservices", "edge"])
    parser.add_argument("--parts", default=PARTS, help="parts to measure; the others are kept from --output")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="Qwen2.5-7B", help="for the cost comparison (default: %(default)s)")
    parser.add_argument("--gpu", default="ml.g5.xlarge", help="its GPU instance (default: %(default)s)")
    parser.add_argument("--cpu", default="ml.c5.2xlarge", help="its CPU instance (default: %(default)s)")
    parser.add_argument("--cpu-usd-per-hour", type=float, help="the CPU instance's price, missing in the catalogue")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # run the cleanup that stops the servers
    result = measure(arguments)
    show(result)
    _save(result, arguments.output)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
