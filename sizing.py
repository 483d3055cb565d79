#!/usr/bin/env python3
"""Sizing: what a model and its workload need on an accelerator, what fits, and the report that says so.

The face of the package `capacity`: this command line, and the package's public names for who imports them from here.
Exit status: 0 fits (or done), 3 does not fit, 2 the question is wrong (one line on stderr says how).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from capacity.errors import CapacityError
from capacity.options import Parser, add_engine, add_hardware, add_model, add_workload, count, whole_number

INVALID = 2


def __getattr__(name: str) -> Any:
    """The public names of `capacity`, loaded when first asked for so that --help stays quick."""
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
        command.add_argument("--json", action="store_true", help="the answer as JSON")
    _add_explain(commands)
    validate = commands.add_parser("validate", help="check the catalogue, or files of your own")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. A wrong question is one line on stderr and status 2."""
    args = build_parser().parse_args(argv)
    commands = importlib.import_module("capacity.commands")
    try:
        status: int = getattr(commands, f"run_{args.command}")(args)
    except CapacityError as error:
        sys.stderr.write(f"sizing.py {args.command}: {' '.join(str(error).split())}\n")
        return INVALID
    except BrokenPipeError:  # the reader (head, less) has gone
        sys.stderr.close()
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
