"""The command line's options. The Makefile passes its variables of the same names."""

from __future__ import annotations

import argparse
from pathlib import Path

from capacity.options import count, whole_number


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description="Put the container on Amazon SageMaker.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--region", help="AWS region (default: the profile's)")
        return made

    for name, text in (
        ("deploy", "plan, upload the artifact, create or update the endpoint, wait until it serves"),
        ("serverless", "the same for a serverless endpoint, for the small CPU profile"),
    ):
        made = command(name, text)
        _add_endpoint(made)
        _add_deployment(made, instances=name == "deploy")
    push = command("push", "put the local image into the account's registry")
    push.add_argument("--image-name", required=True, help="NAME or NAME:TAG")
    push.add_argument("--docker", default="docker", help="the command that tags and pushes (default docker)")
    status = command("status", "watch the endpoint until it serves or has failed")
    _add_endpoint(status)
    clean = command("clean", "remove the endpoint and what was made for it")
    _add_endpoint(clean)
    clean.add_argument("--bucket-name", help="remove its artifacts from this bucket as well")
    clean.add_argument("--repository", help="remove this repository and its images as well")
    command("cost", "what is running in the region, and what it costs an hour")
    _add_local(commands.add_parser("local", help="a local container behind the runtime's stand-in, for boto3"))
    return parser


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-name", help="default: the image's name")
    parser.add_argument("--image-name", help="NAME or NAME:TAG in the account's registry, or a whole address")
    parser.add_argument("--poll-s", type=whole_number(0, 600), default=10, help=argparse.SUPPRESS)


def _add_deployment(parser: argparse.ArgumentParser, *, instances: bool) -> None:
    parser.add_argument("--role-arn", help="the role that the endpoint runs as")
    parser.add_argument("--bucket-name", help="where artifacts go")
    parser.add_argument("--artifact", type=Path, default=Path("build/artifact"), help="what `make artifact` wrote")
    parser.add_argument("--context", type=count, help="tokens of a session (default: the artifact's)")
    parser.add_argument(
        "--concurrency", type=count, help="sessions at once, over all instances (default: the artifact's)"
    )
    parser.add_argument("--variant", default="monolith", choices=("monolith", "microservices"), help="default monolith")
    parser.add_argument("--dry-run", action="store_true", help="print the calls as JSON, and make none")
    parser.add_argument("--no-wait", action="store_true", help="return once the endpoint is on its way")
    if not instances:
        return
    parser.add_argument("--instance-type", help="ml.… (default: the artifact's, or the cheapest that holds the plan)")
    parser.add_argument("--instances", type=count, help="how many (default: as many as the plan takes)")
    parser.add_argument("--max-instances", type=count, help="autoscaling's ceiling (default: twice the plan's)")
    parser.add_argument("--cuda", default="13.0", help="torch's CUDA in the image, for the driver (default 13.0)")
    parser.add_argument("--update", choices=("auto", "rolling", "blue-green"), default="auto", help="default auto")
    parser.add_argument("--no-network-isolation", action="store_true", help="let the container reach the network")
    parser.add_argument("--kms-key", help="key for the artifacts, the volume and what is captured")
    parser.add_argument("--subnets", type=_names, default=(), help="of a VPC, between commas")
    parser.add_argument("--security-groups", type=_names, default=(), help="of a VPC, between commas")
    parser.add_argument(
        "--capture-percent", type=whole_number(0, 100), default=0, help="requests kept in S3 (default 0)"
    )


def _add_local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-name", default="rag", help="what it is called (default rag)")
    parser.add_argument(
        "--port", type=whole_number(0, 65_535), default=8090, help="of the stand-in; 0 takes a free one"
    )
    parser.add_argument("--container-url", help="a container that runs already; none: `serve` is started")
    parser.add_argument("--rechunk", type=int, metavar="SEED", help="cut streams at random places")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
