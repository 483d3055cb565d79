"""Command-line options that several commands share, and their converters."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr and exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Print the message as one line and exit with status 2."""
        line = " ".join(message.split())
        sys.stderr.write(f"{self.prog}: {line} (see {self.prog} --help)\n")
        raise SystemExit(2)


def whole_number(minimum: int, maximum: int = 10**12) -> Callable[[str], int]:
    """A converter for whole numbers from `minimum` to `maximum`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number") from None
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{value} is outside {minimum}–{maximum}")
        return value

    return convert


def real_number(low: float, high: float, *, low_open: bool = False) -> Callable[[str], float]:
    """A converter for finite numbers from `low` to `high`."""

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number") from None
        if not math.isfinite(value) or not low <= value <= high or (low_open and value == low):
            raise argparse.ArgumentTypeError(f"{text[:40]} is outside {low:g}–{high:g}")
        return value

    return convert


count = whole_number(1)
ratio = real_number(0, 1, low_open=True)


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """--model and the number formats; with `several` each may be given more than once."""
    group = parser.add_argument_group("model")
    action = "append" if several else "store"
    known = "catalogue name, folder with config.json, or cached hub id"
    group.add_argument("--model", required=True, action=action, help=known)
    kv = "fp32, fp16, bf16, fp8, int8 or int4 (default: the model's dtype)"
    group.add_argument("--kv-dtype", action=action, help=kv)
    weights = "requantise to fp32, bf16, fp8, int8, int4, … (default: as published)"
    group.add_argument("--weights-dtype", action=action, help=weights)


def add_hardware(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """--hardware and the flags of a custom node; with `several` --hardware may be given more than once."""
    group = parser.add_argument_group("hardware")
    group.add_argument(
        "--hardware",
        "--server",
        dest="hardware",
        required=True,
        action="append" if several else "store",
        help="server (dgx300), SageMaker type (ml.g5.xlarge), GPU (L4), cpu, a JSON file, or custom",
    )
    group.add_argument("--memory-gib", type=real_number(0, 1e6, low_open=True), help="memory of --hardware cpu")
    group.add_argument("--gpu", help="the GPU of --hardware custom")
    group.add_argument("--gpus", type=whole_number(1, 1024), help="how many of them (default 1)")
    group.add_argument("--gpu-memory-mib", type=whole_number(256, 4_000_000), help="memory of one, as NVML reports it")
    group.add_argument("--gpu-bandwidth-gb-s", type=real_number(0, 1e5, low_open=True), help="memory bandwidth of one")
    group.add_argument("--gpu-tflops", type=real_number(0, 1e5, low_open=True), help="dense bf16 TFLOPS of one")


def add_workload(parser: argparse.ArgumentParser) -> None:
    """Context, concurrency, and what a retrieval system adds."""
    group = parser.add_argument_group("workload")
    group.add_argument("--context", type=count, required=True, help="tokens of one session, prompt and answer together")
    group.add_argument("--concurrency", type=count, required=True, help="sessions at once")
    group.add_argument("--input-tokens", type=count, help="prompt tokens of a typical request (for latency and cost)")
    group.add_argument("--output-tokens", type=count, help="answer tokens of a typical request")
    group.add_argument(
        "--encoder-tokens", type=whole_number(0), default=512, help="source length of encoder–decoder models"
    )
    group.add_argument("--embedder", help="embedding model on the same device: catalogue name or folder")
    group.add_argument("--vectors", type=whole_number(0), default=0, help="vectors in the index on the same node")
    group.add_argument("--dimensions", type=whole_number(1, 100_000), default=384, help="width of a vector")
    group.add_argument("--index", default="Flat", help="FAISS factory string (default Flat)")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Settings of the engine."""
    group = parser.add_argument_group("engine")
    group.add_argument("--tensor-parallel", type=whole_number(1, 1024), help="ranks a replica (default: computed)")
    group.add_argument("--pipeline-parallel", type=whole_number(1, 1024), default=1, help="pipeline stages")
    group.add_argument(
        "--instances", type=whole_number(1, 100_000), help="nodes (default: 1 for check, computed by plan)"
    )
    group.add_argument("--utilization", type=ratio, default=0.90, help="share of device memory the engine may use")
    group.add_argument("--block-size", type=whole_number(1, 65_536), default=16, help="tokens a KV block")
    group.add_argument("--max-batch-tokens", type=count, help="tokens an engine step takes at most")
    group.add_argument("--max-sequences", type=count, help="sequences an engine step takes at most")
    group.add_argument("--no-hybrid-allocator", action="store_true", help="charge windowed layers the full context")
    group.add_argument("--reserve-gib", type=real_number(0, 1e6), default=0.0, help="kept free on every rank")
    group.add_argument("--measured", help="JSON of what a boot measured, or of `calibrate`; replaces the estimates")


def add_report(parser: argparse.ArgumentParser) -> None:
    """Scenarios and the output of a report."""
    group = parser.add_argument_group("scenarios")
    group.add_argument(
        "--method", choices=("exact", "reference"), default="exact", help="per-rank terms, or flat overhead"
    )
    group.add_argument("--overhead-gib", type=real_number(0, 1e6), help="flat overhead a node, with --method reference")
    group.add_argument(
        "--headroom", type=_three(real_number(0, 10)), help="0.2, or minimum,recommended,ideal: 0,0.2,0.3"
    )
    group.add_argument("--spare-nodes", type=_three(whole_number(0, 100)), help="1, or three: 0,1,2")
    group.add_argument("--budget-ratio", type=_three(ratio), help="0.7, or three: 0.7,0.7,0.65")
    group.add_argument("--node-availability", type=real_number(0, 1, low_open=True), help="share of time a node is up")
    group.add_argument("--storage-profile", default="profile_default", help="storage that weights are read from")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format", choices=("table", "md", "html", "json"), help="default: by --output's suffix, else table"
    )
    output.add_argument("--json", action="store_true", help="short for --format json")
    output.add_argument("--lang", choices=("pt-BR", "en"), default="en", help="language of the report")
    output.add_argument("--output", help="write to this file instead of the terminal")


def add_objective(parser: argparse.ArgumentParser) -> None:
    """--ttft and --tpot."""
    group = parser.add_argument_group("objective")
    group.add_argument("--ttft", type=real_number(0, 1e6, low_open=True), help="largest acceptable TTFT, in seconds")
    group.add_argument("--tpot", type=real_number(0, 1e6, low_open=True), help="largest acceptable TPOT, in seconds")


def _three(convert: Callable[[str], float]) -> Callable[[str], list[float]]:
    """A converter for one value, or three separated by commas."""

    def convert_all(text: str) -> list[float]:
        values = [convert(part) for part in text.split(",")]
        if len(values) not in (1, 3):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is neither one value nor three separated by commas")
        return values

    return convert_all
