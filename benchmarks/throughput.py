"""Throughput over HTTP compared with other servers: same model, prompts and machine, in one run.

    python -m benchmarks.throughput [--quick] [--backends torch] [--clients 1 8 16 32] [--workloads 562x32 119x48]

The model has SmolLM2-135M's shape, random weights and a bfloat16 checkpoint. Every request has another random prompt,
so that prefix sharing, which would favour this server, never applies. All clients of a cell send at the same moment;
the servers run the same cells in turns, repeat by repeat, so that a drift of the machine affects all of them; medians
are compared, with the range next to them.

The baseline is Flask with `generate` under a lock, in two versions: in the checkpoint's bfloat16, as usually written,
and in float32. If the processor multiplies bfloat16 more slowly than float32 (measured at the start), this server runs
in float32, the second version is the fair baseline, and the first one is measured once per workload with one client:
with a lock, more clients do not increase its throughput. `transformers serve` with continuous batching and llama.cpp's
server are measured if they are installed (--peers-python, --llama-server); otherwise the installation is printed.

Times are measured by the client: TTFT to the first text (without streaming: to the end), then the gaps between pieces
of text. Two upper bounds come from the machine, measured at the start. "of bandwidth": steps per second, by the median
gap, relative to reading all weights once per step. "of roofline": tokens per second relative to the limit of any server
in float32, which multiplies every prompt token once and, for each new token, reads the weights or multiplies for all
sequences, whichever takes longer. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness import host, peers, smol_checkpoint
from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.process import ROOT, running
from rag.settings import Settings

_BUILD = ROOT / "build" / "benchmarks"
_FAIR, _AS_WRITTEN = "Flask + lock, float32", "Flask + lock, as written"


@dataclass(frozen=True, slots=True)
class Cell:
    """A workload and the number of clients that send it at the same moment."""

    prompt_tokens: int
    new_tokens: int
    clients: int

    def requests(self, rng: random.Random) -> list[peers.PeerRequest]:
        """One per client, each with another prompt."""
        return [
            peers.PeerRequest(
                tuple(rng.randrange(1, smol_checkpoint.VOCABULARY) for _ in range(self.prompt_tokens)),
                self.new_tokens,
            )
            for _ in range(self.clients)
        ]


@dataclass(slots=True)
class Samples:
    """The measurements of a server in a cell, over all repeats."""

    tokens_per_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    gaps_s: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Medians and percentiles; gaps only if the server streams."""
        row: dict[str, Any] = {
            "tokens_per_s": statistics.median(self.tokens_per_s),
            "spread": [min(self.tokens_per_s), max(self.tokens_per_s)],
            "ttft_p50_s": percentile(self.ttft_s, 0.5),
            "ttft_p95_s": percentile(self.ttft_s, 0.95),
        }
        if self.gaps_s:
            row |= {"gap_p50_s": percentile(self.gaps_s, 0.5), "gap_p95_s": percentile(self.gaps_s, 0.95)}
        return row


def run_cell(peer: peers.Peer, url: str, cell: Cell, rng: random.Random, samples: Samples) -> None:
    """Add one repeat to `samples`. Raises RuntimeError if a server computed another number of tokens than requested."""
    requests = cell.requests(rng)
    with httpx.Client(base_url=url, timeout=3600) as client, ThreadPoolExecutor(cell.clients) as threads:
        began = time.perf_counter()
        replies = list(threads.map(lambda request: peer.ask(client, request), requests))
        seconds = time.perf_counter() - began
    for reply in replies:
        if (reply.prompt_tokens, reply.new_tokens) != (cell.prompt_tokens, cell.new_tokens):
            raise RuntimeError(f"{peer.name} computed {reply.prompt_tokens} + {reply.new_tokens} tokens in {cell}")
        samples.ttft_s.append(reply.arrivals_s[0])
        samples.gaps_s += [later - earlier for earlier, later in itertools.pairwise(reply.arrivals_s)]
    samples.tokens_per_s.append(cell.clients * cell.new_tokens / seconds)


def measure(chosen: Sequence[peers.Peer], cells: Sequence[Cell], repeats: int, logs: Path) -> Iterator[dict[str, Any]]:
    """One row per cell and server."""
    samples = {(cell, peer.name): Samples() for cell in cells for peer in chosen}
    rng = random.Random(1)

    def due(cell: Cell, peer: peers.Peer, repeat: int) -> bool:
        return not peer.slow or (cell.clients == min(one.clients for one in cells) and repeat == 0)

    plan = [
        (cell, peer, repeat)
        for repeat, cell, peer in itertools.product(range(repeats), cells, chosen)
        if due(cell, peer, repeat)
    ]
    with ExitStack() as stack:
        urls = {}
        for peer in tqdm(chosen, desc="starting", unit="server"):
            log = logs / f"{peer.name.replace(' ', '-')}.log"
            urls[peer.name] = stack.enter_context(running(peer.start(log), limit_s=300)).url
            run_cell(peer, urls[peer.name], Cell(16, 4, 1), rng, Samples())  # warm-up
        for cell, peer, _ in (progress := tqdm(plan, unit="cell")):
            progress.set_description(
                f"{peer.name}, {cell.clients} clients, {cell.prompt_tokens} + {cell.new_tokens} tokens"
            )
            run_cell(peer, urls[peer.name], cell, rng, samples[cell, peer.name])
    for cell, peer in itertools.product(cells, chosen):
        measured = samples[cell, peer.name]
        if measured.tokens_per_s:
            yield {
                "prompt_tokens": cell.prompt_tokens,
                "new_tokens": cell.new_tokens,
                "clients": cell.clients,
                "server": peer.name,
                "dtype": peer.dtype,
                **measured.row(),
            }


def roofline_tokens_per_s(row: dict[str, Any], steps_per_s: float, flops_per_s: float, flops_a_token: int) -> float:
    """The upper bound for this cell: prefill at `flops_per_s`, then at most `steps_per_s` decode steps."""
    batch_s = row["clients"] * flops_a_token / flops_per_s  # to compute one token of every sequence
    seconds = row["prompt_tokens"] * batch_s + row["new_tokens"] * max(1 / steps_per_s, batch_s)
    return float(row["clients"] * row["new_tokens"] / seconds)


def compare(rows: Sequence[dict[str, Any]], ceilings: dict[str, float], flops_per_s: float, flops_a_token: int) -> None:
    """Add to each row its ratios to both baselines, and its shares of the bandwidth limit and of float32's roofline.

    `ceilings`: steps per second by dtype; `flops_per_s` is float32's, so rows in bfloat16 have no roofline.
    """
    for row in rows:
        workload = (row["prompt_tokens"], row["new_tokens"])
        for baseline, name in ((_FAIR, "ratio_to_lock_float32"), (_AS_WRITTEN, "ratio_to_lock_as_written")):
            baselines = [
                other
                for other in rows
                if other["server"] == baseline and (other["prompt_tokens"], other["new_tokens"]) == workload
            ]
            same_clients = [other for other in baselines if other["clients"] == row["clients"]] or baselines
            if same_clients:
                row[name] = row["tokens_per_s"] / same_clients[0]["tokens_per_s"]
        if row.get("gap_p50_s"):
            row["share_of_bandwidth"] = 1 / row["gap_p50_s"] / ceilings[row["dtype"]]
        if row["dtype"] != "bfloat16":
            most = roofline_tokens_per_s(row, ceilings[row["dtype"]], flops_per_s, flops_a_token)
            row["share_of_roofline"] = row["tokens_per_s"] / most


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """The rows with a section per cell."""
    shown = Table(title=title)
    for heading in ("in + out", "clients", "server", "dtype"):
        shown.add_column(heading, justify="left" if heading in ("server", "dtype") else "right", no_wrap=True)
    measured = ("tok/s", "spread", "TTFT s p50/p95", "gap ms p50/p95")
    for heading in (*measured, "× lock f32", "× as written", "of bandwidth", "of roofline"):
        shown.add_column(heading, justify="right", no_wrap=True)

    def formatted(value: float | None, form: str, times: float = 1.0) -> str:
        return "–" if value is None else format(value * times, form)

    last = None
    for row in rows:
        cell = (row["prompt_tokens"], row["new_tokens"], row["clients"])
        if last not in (None, cell):
            shown.add_section()
        low, high = row["spread"]
        gaps = (row.get("gap_p50_s"), row.get("gap_p95_s"))
        shown.add_row(
            "" if last == cell else f"{cell[0]} + {cell[1]}",
            "" if last == cell else str(cell[2]),
            row["server"],
            row["dtype"],
            f"{row['tokens_per_s']:.1f}",
            f"{low:.1f}–{high:.1f}",
            f"{row['ttft_p50_s']:.2f}/{row['ttft_p95_s']:.2f}",
            "/".join(formatted(gap, ".0f", 1e3) for gap in gaps) if gaps[0] is not None else "–",
            formatted(row.get("ratio_to_lock_float32"), ".2f"),
            formatted(row.get("ratio_to_lock_as_written"), ".2f"),
            formatted(row.get("share_of_bandwidth"), ".0%"),
            formatted(row.get("share_of_roofline"), ".0%"),
        )
        last = cell
    return shown


def choose(arguments: argparse.Namespace, model: Path, dtype: str, context_tokens: int) -> list[peers.Peer]:
    """The servers to measure; for missing ones the installation is printed on stderr."""
    clients = max(arguments.clients)
    unknown = [backend for backend in arguments.backends if backend != "torch"]
    if unknown and "backend" not in Settings.model_fields:
        raise SystemExit(f"this server has no backend {', '.join(unknown)}")
    found: list[peers.Peer | str] = [
        *(peers.ours(model, backend, dtype, clients, context_tokens) for backend in arguments.backends),
        peers.locked(model, "float32", slow=False),
        peers.locked(model, "auto", slow=dtype == "float32"),
        peers.transformers_serve(model, dtype, arguments.peers_python),
        peers.llama_server(model, arguments.peers_python, arguments.llama_server, clients, context_tokens),
    ]
    chosen = []
    for peer in found:
        if isinstance(peer, str):
            print(f"not measured: {peer}", file=sys.stderr)
        elif not any(word in peer.name for word in arguments.skip):
            chosen.append(peer)
    return chosen


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", type=lambda text: text.split(","), default=["torch"], help="torch,openvino")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--workloads", nargs="+", default=["562x32", "119x48"], help="prompt tokens x new tokens")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 and 8 clients, 119x48, once, without 'as written'")
    parser.add_argument("--skip", nargs="+", default=[], help="skip servers whose name contains one of these words")
    parser.add_argument("--layers", type=int, default=smol_checkpoint.LAYERS, help="fewer layers, to try the script")
    parser.add_argument(
        "--peers-python", type=Path, default=Path(sys.executable), help="Python with transformers[serving] and gguf"
    )
    parser.add_argument("--llama-server", default="llama-server", help="llama.cpp's program")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.clients, arguments.workloads, arguments.repeats = [1, 8], ["119x48"], 1
        arguments.skip = [*arguments.skip, "as written"]
    workloads = [tuple(map(int, workload.split("x"))) for workload in arguments.workloads]
    cells = [Cell(prompt, new, clients) for prompt, new in workloads for clients in arguments.clients]

    model = _BUILD / f"smol135-{arguments.layers}"
    smol_checkpoint.make(model, arguments.layers)
    dtype, bfloat16_ratio = host.fastest_dtype()
    bandwidth, flops_per_s = host.read_bytes_per_s(), host.multiply_flops_per_s()
    ceilings = {name: bandwidth / smol_checkpoint.weights_bytes(model, name) for name in ("float32", "bfloat16")}
    ceilings["float16"] = ceilings["bfloat16"]
    hardware = host.describe()
    print(
        f"{host.machine_line(hardware)}: bfloat16 multiplies at {bfloat16_ratio:.2f}x float32's speed, "
        f"so {dtype} is served; memory reads {bandwidth / 1e9:.1f} GB/s, "
        f"at most {ceilings[dtype]:.1f} steps/s in {dtype}; "
        f"float32 multiplies at {flops_per_s / 1e9:.0f} GFLOP/s, "
        f"at most {flops_per_s / smol_checkpoint.flops_a_token(arguments.layers):.0f} prompt tokens/s",
        file=sys.stderr,
    )
    with tempfile.TemporaryDirectory() as logs:
        context_tokens = max(prompt + new for prompt, new in workloads) + 16
        chosen = choose(arguments, model, dtype, context_tokens)
        rows = list(measure(chosen, cells, arguments.repeats, Path(logs)))
    compare(rows, ceilings, flops_per_s, smol_checkpoint.flops_a_token(arguments.layers))
    title = (
        f"SmolLM2-135M's shape ({arguments.layers} layers), {host.machine_line(hardware)}, {arguments.repeats} repeats"
    )
    Console(stderr=True, width=180).print(table(rows, title))
    result = {"hardware": hardware, "read_bytes_per_s": bandwidth, "flops_per_s": flops_per_s}
    result |= {"bfloat16_ratio": bfloat16_ratio, "ceilings_steps_per_s": ceilings, "rows": rows}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
