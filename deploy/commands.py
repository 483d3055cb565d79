"""The command line of deployment. Exit status: 0 done, 1 failed, 2 the question is wrong, 3 does not fit."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from deploy.local import run_local


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    text = "a local container behind the runtime's stand-in, for boto3"
    local = commands.add_parser("local", help=text, description=text)
    local.add_argument("--endpoint-name", default="rag", help="what it is called (default rag)")
    local.add_argument("--port", type=int, default=8090, help="of the stand-in; 0 takes a free one (default 8090)")
    local.add_argument("--container-url", help="a container that runs already; none: `serve` is started")
    local.add_argument("--rechunk", type=int, metavar="SEED", help="cut streams at random places")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_local(args.endpoint_name, port=args.port, container_url=args.container_url, seed=args.rechunk)
