"""An endpoint's state on the terminal, until it is in service or has failed."""

from __future__ import annotations

import time

from rich.console import Console

from deploy.account import Account
from deploy.aws.endpoint import EndpointStatus, find_endpoint, wait_until_settled
from deploy.errors import DeployError, EndpointFailed


def watch(
    account: Account,
    endpoint: str,
    console: Console,
    *,
    wanted_config: str | None = None,
    poll_s: float = 10.0,
    limit_s: float = 7200.0,
) -> EndpointStatus:
    """Show state and elapsed time until the endpoint settles; one line per state where there is no terminal.

    Raises EndpointFailed, after printing its log lines.
    """
    began, seen = time.monotonic(), ""
    with console.status(f"{endpoint}: asking") as spinner:

        def show(now: EndpointStatus) -> None:
            nonlocal seen
            elapsed = _clock(time.monotonic() - began)
            spinner.update(f"{endpoint}: {now.status}, {elapsed}")
            if now.status != seen:
                seen = now.status
                console.print(f"{endpoint}: {now.status} after {elapsed}", highlight=False, soft_wrap=True)

        try:
            settled = wait_until_settled(
                account, endpoint, wanted_config, on_status=show, poll_s=poll_s, limit_s=limit_s
            )
        except EndpointFailed as failure:
            for line in failure.log_lines:
                console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
            raise
    return settled


def run_status(account: Account, endpoint: str, console: Console, *, poll_s: float = 10.0) -> int:
    """`make status`: watch until the endpoint settles; 0 where it is InService."""
    if find_endpoint(account, endpoint) is None:
        raise DeployError(f"there is no endpoint {endpoint} in {account.region}", "make deploy creates it.")
    settled = watch(account, endpoint, console, poll_s=poll_s)
    console.print(
        f"{endpoint}: {settled.running} instance(s), configuration {settled.config}", highlight=False, soft_wrap=True
    )
    if settled.reason:  # the last update failed
        console.print(
            f"{endpoint}: the last update failed: {settled.reason}", highlight=False, soft_wrap=True, style="yellow"
        )
    return 0


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d} min"
