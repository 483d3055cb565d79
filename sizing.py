#!/usr/bin/env python3
"""Sizing: what a model and its workload need on an accelerator, whether it fits, and a report of the figures.

The command line of the package `capacity`, whose public names can be imported from here too.
Exit status: 0 fits (or done), 3 does not fit, 2 invalid input (with one line on stderr).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from capacity.errors import CapacityError
from capacity.options import (
    Parser,
    add_engine,
    add_hardware,
    add_model,
    add_objective,
    add_report,
    add_workload,
    count,
    real_number,
    whole_number,
)

INVALID = 2
# The module of a command where it is not capacity.commands; imported when it runs, so that --help stays quick.
_MODULES = {"report": "capacity.report.report_command", "compare": "capacity.report.report_command"}


def __getattr__(name: str) -> Any:
    """The public names of `capacity`, loaded on first use so that --help stays quick."""
    capacity = importlib.import_module("capacity")
    if name in capacity.__all__:
        return getattr(capacity, name)
    raise AttributeError(f"module 'sizing' has no attribute {name!r}")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(prog="sizing.py", description="Capacity of LLM inference: plan, check, explain, report, compare.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command", parser_class=Parser)
    for name, text in (
        ("plan", "instances, tensor parallelism, KV blocks and sessions for a workload"),
        ("check", "whether it fits; exit 3 with verified fixes where it does not"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        add_model(command)
        add_hardware(command)
        add_workload(command)
        add_engine(command)
        add_objective(command)
        command.add_argument("--json", action="store_true", help="the answer as JSON")
    for name, text in (
        ("report", "the executive report: three scenarios, reasons, risks, recommendation"),
        ("compare", "several models, servers or precisions side by side"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        add_model(command, several=name == "compare")
        add_hardware(command, several=name == "compare")
        add_workload(command)
        add_engine(command)
        add_objective(command)
        add_report(command)
    _add_explain(commands)
    _add_calibrate(commands)
    validate = commands.add_parser("validate", help="check the catalogue, or your own files")
    validate.add_argument("files", nargs="*", help="JSON files: servers, GPUs, storage profiles, config.json")
    return parser


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser("explain", help="bytes a token, a session and a rank, term by term")
    add_model(explain)
    explain.add_argument("--context", type=count, help="tokens (default: the model's maximum)")
    explain.add_argument("--tensor-parallel", type=whole_number(1, 1024), default=1)
    explain.add_argument("--pipeline-parallel", type=whole_number(1, 1024), default=1)
    explain.add_argument("--block-size", type=whole_number(1, 65_536), default=16, help="tokens a KV block")
    explain.add_argument("--encoder-tokens", type=whole_number(0), default=512)
    explain.add_argument("--no-hybrid-allocator", action="store_true", help="charge windowed layers the full context")
    explain.add_argument("--json", action="store_true", help="the figures as JSON")


def _add_calibrate(commands: Any) -> None:
    text = "measure a running engine, for --measured"
    calibrate = commands.add_parser("calibrate", help=text, description=text)
    calibrate.add_argument("--url", required=True, help="its endpoint: http://…/invocations or …/v1/chat/completions")
    calibrate.add_argument("--model", default="", help="name to record")
    calibrate.add_argument("--hardware", "--server", dest="hardware", default="", help="name to record")
    calibrate.add_argument("--repeats", type=whole_number(1, 100), default=3, help="requests a prompt length")
    calibrate.add_argument(
        "--sessions", type=whole_number(1, 256), default=8, help="concurrent sessions, for TPOT under load"
    )
    calibrate.add_argument("--new-tokens", type=whole_number(2, 4096), default=32, help="tokens to generate")
    calibrate.add_argument(
        "--timeout", type=real_number(0, 3600, low_open=True), default=120.0, help="seconds a request"
    )
    calibrate.add_argument("--output", help="write the measurements to this file")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Invalid input is one line on stderr and status 2."""
    args = build_parser().parse_args(argv)
    module = importlib.import_module(_MODULES.get(args.command, "capacity.commands"))
    try:
        status: int = getattr(module, f"run_{args.command}")(args)
    except CapacityError as error:
        sys.stderr.write(f"sizing.py {args.command}: {' '.join(str(error).split())}\n")
        return INVALID
    except BrokenPipeError:  # the reading process (head, less) has exited
        sys.stderr.close()
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
