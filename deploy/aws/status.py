"""What an endpoint is doing, live: a spinner until it serves or has failed."""

from __future__ import annotations

import time

from rich.console import Console

from deploy.account import Account
from deploy.aws.endpoint import Situation, find_endpoint, wait_until_settled
from deploy.errors import DeployError, EndpointFailed


def watch(
    account: Account,
    endpoint: str,
    console: Console,
    *,
    wanted_config: str | None = None,
    poll_s: float = 10.0,
    limit_s: float = 7200.0,
) -> Situation:
    """Show the endpoint's state and the elapsed time until it settles; a line a state where there is no terminal.

    Raises EndpointFailed, after its log lines were shown.
    """
    began, seen = time.monotonic(), ""
    with console.status(f"{endpoint}: asking") as spinner:

        def show(now: Situation) -> None:
            nonlocal seen
            elapsed = _clock(time.monotonic() - began)
            spinner.update(f"{endpoint}: {now.status}, {elapsed}")
            if now.status != seen:
                seen = now.status
                console.print(f"{endpoint}: {now.status} after {elapsed}", highlight=False, soft_wrap=True)

        try:
            settled = wait_until_settled(
                account, endpoint, wanted_config, on_situation=show, poll_s=poll_s, limit_s=limit_s
            )
        except EndpointFailed as failure:
            for line in failure.log_lines:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            raise
    return settled


def run_status(account: Account, endpoint: str, console: Console, *, poll_s: float = 10.0) -> int:
    """`make status`: watch until the endpoint settles; 0 where it is InService."""
    if find_endpoint(account, endpoint) is None:
        raise DeployError(f"there is no endpoint {endpoint} in {account.region}", "make deploy makes one.")
    settled = watch(account, endpoint, console, poll_s=poll_s)
    console.print(
        f"{endpoint}: {settled.running} instance(s), configuration {settled.config}", highlight=False, soft_wrap=True
    )
    if settled.reason:  # the last update did not come through
        console.print(
            f"{endpoint}: the last update failed: {settled.reason}", highlight=False, soft_wrap=True, style="yellow"
        )
    return 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d} min"
