"""The commands of `python -m deploy`. Exit status: 0 done, 1 failed, 2 wrong option, 3 the plan does not fit."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from capacity import Plan
from capacity.commands import plan_text
from deploy.account import Account
from deploy.aws.alarms import put_alarms, rollback_alarms
from deploy.aws.autoscaling import put_scaling
from deploy.aws.clean import clean
from deploy.aws.cost import price, run_cost
from deploy.aws.endpoint import bring_up, finish
from deploy.aws.push import push, pushed_image, split_image
from deploy.aws.status import run_status, watch
from deploy.aws.upload import Uploaded, archive_uri, artifact_uri, upload, upload_archive
from deploy.cli_options import build_parser
from deploy.errors import DeployError
from deploy.local.local_command import run_local
from deploy.spec.artifact_reader import Artifact, read_artifact
from deploy.spec.deployment import Deployment, Options
from deploy.spec.instance_plan import RequestedEndpoint, plan_endpoint, plan_serverless
from deploy.spec.names import checked_bucket, checked_endpoint, checked_role
from deploy.state import State, forget_state, read_state, write_state


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. An error is one line on stderr."""
    args = build_parser().parse_args(argv)
    console = Console()
    run = {"deploy": _deploy, "serverless": _deploy, "push": _push, "status": _status, "clean": _clean}
    try:
        if args.command == "local":
            return run_local(args.endpoint_name, port=args.port, container_url=args.container_url, seed=args.rechunk)
        if args.command == "cost":
            return run_cost(Account(args.region), console)
        return run[args.command](args, console)
    except DeployError as error:
        sys.stderr.write(f"{args.command}: {error}\n")
        return error.exit_status


def _push(args: argparse.Namespace, console: Console) -> int:
    account = Account(args.region)
    push(
        account,
        args.image_name,
        docker=args.docker,
        report=lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    return 0


def _status(args: argparse.Namespace, console: Console) -> int:
    state = read_state()
    name = checked_endpoint(_endpoint_name(args) or (state.endpoint if state else None))
    return run_status(Account(args.region), name, console, poll_s=args.poll_s)


def _deploy(args: argparse.Namespace, console: Console) -> int:
    endpoint = checked_endpoint(_endpoint_name(args))
    artifact = read_artifact(args.artifact)
    memory_mb, plan = _planned(args, artifact)
    role, bucket = checked_role(args.role_arn), checked_bucket(args.bucket_name)
    place = archive_uri if memory_mb else artifact_uri

    def deployment(image: str) -> Deployment:
        return Deployment(
            endpoint=endpoint,
            role_arn=role,
            image=image,
            model_data_uri=place(bucket, endpoint, artifact),
            model_bytes=artifact.size_bytes,
            plan=plan,
            variant=args.variant,
            bucket=bucket,
            options=_options(args),
            serverless_mb=memory_mb,
        )

    image_name = args.image_name or endpoint
    wanted = deployment(image_name)
    if args.dry_run:
        print(json.dumps(_dry(wanted), indent=1))
        return 0
    console.print(plan_text(plan), markup=False, highlight=False, soft_wrap=True)
    _print_price(plan, console)
    account = Account(args.region)
    wanted = deployment(pushed_image(account, image_name))
    uploaded = _upload(account, artifact, wanted, console)
    console.print(
        f"{uploaded.uri}: {uploaded.sent_bytes} bytes sent, {uploaded.copied_bytes} copied",
        highlight=False,
        soft_wrap=True,
    )
    done = bring_up(account, wanted)
    console.print(f"endpoint {endpoint} {done}: configuration {wanted.config_name}", highlight=False, soft_wrap=True)
    write_state(State(endpoint, account.region, args.image_name or "", bucket))
    if args.no_wait:
        console.print("run the same command again once it is InService, to set up autoscaling", highlight=False)
        return 0
    watch(account, endpoint, console, wanted_config=wanted.config_name, poll_s=args.poll_s)
    finish(account, wanted)
    console.print(
        f'ask it: rag_client.Client("{endpoint}", region="{account.region}").ask("…")', highlight=False, soft_wrap=True
    )
    return 0


def _planned(args: argparse.Namespace, artifact: Artifact) -> tuple[int | None, Plan]:
    """(memory of a serverless container or None, the Plan). Raises Refused."""
    if args.command == "serverless":
        return plan_serverless(artifact, RequestedEndpoint(args.context, args.concurrency))
    return None, plan_endpoint(
        artifact, RequestedEndpoint(args.context, args.concurrency, args.instance_type, args.instances)
    )


def _options(args: argparse.Namespace) -> Options:
    if args.command == "serverless":
        return Options(network_isolation=False)
    return Options(
        cuda=args.cuda,
        network_isolation=not args.no_network_isolation,
        kms_key=args.kms_key,
        subnets=args.subnets,
        security_groups=args.security_groups,
        capture_percent=args.capture_percent,
        max_instances=args.max_instances,
        update=args.update,
    )


def _dry(wanted: Deployment) -> dict[str, object]:
    """The calls for a new endpoint, and the call that replaces create_endpoint where the endpoint exists."""
    update = wanted.update_endpoint(rollback_alarms(wanted.endpoint), wanted.plan.instances)
    return {
        "plan": wanted.plan.to_json(),
        "calls": [call.to_json() for call in wanted.calls(put_alarms(wanted), put_scaling(wanted))],
        "instead_of_create_endpoint_where_it_exists": update.to_json(),
    }


def _print_price(plan: Plan, console: Console) -> None:
    if plan.instance_type:
        usd, note = price(plan.instance_type, plan.instances)
        console.print(
            f"  {'price unknown' if usd is None else f'{usd:.2f} USD an hour'} ({note})",
            highlight=False,
            soft_wrap=True,
        )


def _upload(account: Account, artifact: Artifact, wanted: Deployment, console: Console) -> Uploaded:
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        bar = bars.add_task("upload", total=artifact.size_bytes)

        def sent(size: int) -> None:
            bars.advance(bar, size)

        if wanted.serverless_mb:
            return upload_archive(account, artifact, wanted.bucket, wanted.endpoint, on_bytes=sent)
        return upload(account, artifact, wanted.bucket, wanted.endpoint, kms_key=wanted.options.kms_key, on_bytes=sent)


def _clean(args: argparse.Namespace, console: Console) -> int:
    """Remove the endpoint. An image name selects the endpoint that was last deployed with it from this directory."""
    endpoint, state = args.endpoint_name, read_state()
    if endpoint is None and args.image_name and state is not None and state.image == args.image_name:
        endpoint = state.endpoint
    if endpoint is None and args.image_name:
        console.print(f"no endpoint was deployed from this directory with the image {args.image_name}", highlight=False)
        return 0
    endpoint = checked_endpoint(endpoint)
    clean(
        Account(args.region),
        endpoint,
        lambda line: console.print(line, highlight=False, soft_wrap=True),
        bucket=args.bucket_name,
        repository=args.repository,
        poll_s=args.poll_s,
    )
    forget_state(endpoint)
    console.print(f"the endpoint {endpoint} is removed", highlight=False, soft_wrap=True)
    return 0


def _endpoint_name(args: argparse.Namespace) -> str | None:
    if args.endpoint_name or not args.image_name:
        return str(args.endpoint_name) if args.endpoint_name else None
    return split_image(args.image_name)[0].rpartition("/")[2]
