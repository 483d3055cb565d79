"""The command-line options. The Makefile passes its variables of the same names."""

from __future__ import annotations

import argparse
from pathlib import Path

from capacity.options import count, whole_number


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy", description="Deploy the container to Amazon SageMaker.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.add_argument("--region", help="AWS region (default: the profile's)")
        return made

    for name, text in (
        ("deploy", "plan, upload the artifact, create or update the endpoint, wait until it is in service"),
        ("serverless", "the same as a serverless endpoint, for the small CPU profile"),
    ):
        made = command(name, text)
        _add_endpoint(made)
        _add_deployment(made, instances=name == "deploy")
    push = command("push", "push the local image to the account's registry (ECR)")
    push.add_argument("--image-name", required=True, help="NAME or NAME:TAG")
    push.add_argument("--docker", default="docker", help="the command that tags and pushes (default docker)")
    status = command("status", "watch the endpoint until it is in service or has failed")
    _add_endpoint(status)
    clean = command("clean", "remove the endpoint and everything created for it")
    _add_endpoint(clean)
    clean.add_argument("--bucket-name", help="also remove its artifacts from this bucket")
    clean.add_argument("--repository", help="also remove this repository and its images")
    command("cost", "the endpoints running in the region, and their cost per hour")
    _add_local(
        commands.add_parser(
            "local", help="serve a local container behind a stand-in of the SageMaker Runtime, for boto3"
        )
    )
    return parser


def _add_endpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-name", help="default: the image's name")
    parser.add_argument("--image-name", help="NAME or NAME:TAG in the account's registry, or a full image URI")
    parser.add_argument("--poll-s", type=whole_number(0, 600), default=10, help=argparse.SUPPRESS)


def _add_deployment(parser: argparse.ArgumentParser, *, instances: bool) -> None:
    parser.add_argument("--role-arn", help="the IAM role of the endpoint")
    parser.add_argument("--bucket-name", help="S3 bucket for the artifacts")
    parser.add_argument(
        "--artifact", type=Path, default=Path("build/artifact"), help="directory written by `make artifact`"
    )
    parser.add_argument("--context", type=count, help="tokens per session (default: the artifact's)")
    parser.add_argument(
        "--concurrency", type=count, help="concurrent sessions over all instances (default: the artifact's)"
    )
    parser.add_argument("--variant", default="monolith", choices=("monolith", "microservices"), help="default monolith")
    parser.add_argument("--dry-run", action="store_true", help="print the AWS calls as JSON without making them")
    parser.add_argument("--no-wait", action="store_true", help="return without waiting for InService")
    if not instances:
        return
    parser.add_argument("--instance-type", help="ml.… (default: the artifact's, or the cheapest that fits the plan)")
    parser.add_argument("--instances", type=count, help="number of instances (default: the plan's)")
    parser.add_argument("--max-instances", type=count, help="maximum for autoscaling (default: twice the plan's)")
    parser.add_argument(
        "--cuda", default="13.0", help="CUDA version of the image's torch, to choose the driver (default 13.0)"
    )
    parser.add_argument("--update", choices=("auto", "rolling", "blue-green"), default="auto", help="default auto")
    parser.add_argument("--no-network-isolation", action="store_true", help="allow the container network access")
    parser.add_argument("--kms-key", help="KMS key for artifacts, volume and captured data")
    parser.add_argument("--subnets", type=_names, default=(), help="of a VPC, separated by commas")
    parser.add_argument("--security-groups", type=_names, default=(), help="of a VPC, separated by commas")
    parser.add_argument(
        "--capture-percent",
        type=whole_number(0, 100),
        default=0,
        help="percentage of requests captured to S3 (default 0)",
    )


def _add_local(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--endpoint-name", default="rag", help="name of the local endpoint (default rag)")
    parser.add_argument(
        "--port",
        type=whole_number(0, 65_535),
        default=8090,
        help="port of the stand-in; 0 for a free one (default 8090)",
    )
    parser.add_argument("--container-url", help="URL of a running container (default: start `serve`)")
    parser.add_argument("--rechunk", type=int, metavar="SEED", help="cut streams at random places")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
