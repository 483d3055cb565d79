"""An endpoint on AWS: created or updated to what is wanted, and watched until it serves it or has failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.account import Account, Call
from deploy.aws.alarms import put_alarms, rollback_alarms
from deploy.aws.autoscaling import put_scaling
from deploy.aws.logs import last_lines
from deploy.errors import DeployError, EndpointFailed
from deploy.spec.deployment import Deployment
from deploy.spec.names import is_hashed

_SETTLED = ("InService", "Failed", "UpdateRollbackFailed", "OutOfService")
_EVENTUALLY_TRIES, _EVENTUALLY_S = 5, 3.0


@dataclass(frozen=True, slots=True)
class Situation:
    """An endpoint at one moment."""

    name: str
    status: str
    config: str
    reason: str
    running: int

    @classmethod
    def of(cls, response: dict[str, Any]) -> Situation:
        """Read DescribeEndpoint's answer."""
        variants = response.get("ProductionVariants", ())
        return cls(
            name=response["EndpointName"],
            status=response["EndpointStatus"],
            config=response.get("EndpointConfigName", ""),
            reason=response.get("FailureReason", ""),
            running=sum(variant.get("CurrentInstanceCount", 0) for variant in variants),
        )


OnSituation = Callable[[Situation], object]


def find_endpoint(account: Account, name: str) -> Situation | None:
    """The endpoint as it is, or None where there is none."""
    response = account.find(Call("sagemaker", "describe_endpoint", {"EndpointName": name}))
    return None if response is None else Situation.of(response)


def bring_up(account: Account, deployment: Deployment) -> str:
    """Make what is missing and set the endpoint going; "created", "updated" or "unchanged".

    Raises DeployError: the endpoint is in the middle of something, has failed, or is somebody else's.
    """
    present = find_endpoint(account, deployment.endpoint)
    if present is not None:
        _refuse_unfit(present)
        if present.config == deployment.config_name and present.status == "InService":
            _alarm_and_scale(account, deployment)
            return "unchanged"
    _make(account, deployment.create_model(), "describe_model", "ModelName")
    _make(account, deployment.create_config(), "describe_endpoint_config", "EndpointConfigName")
    for call in put_alarms(deployment):
        account.do(call)
    if present is None:
        _eventually(account, deployment.create_endpoint())
        return "created"
    _eventually(account, deployment.update_endpoint(rollback_alarms(deployment.endpoint), present.running))
    return "updated"


def wait_until_settled(
    account: Account,
    name: str,
    wanted_config: str | None = None,
    *,
    on_situation: OnSituation = lambda _: None,
    poll_s: float = 10.0,
    limit_s: float = 7200.0,
) -> Situation:
    """The endpoint once it is InService on `wanted_config` (on any, where None).

    Raises EndpointFailed with FailureReason and the container's last lines: for Failed, UpdateRollbackFailed and
    OutOfService, and for InService on another configuration, which is what a rollback ends in.
    """
    end, unmoved = time.monotonic() + limit_s, 0
    while True:
        present = find_endpoint(account, name)
        if present is None:
            raise EndpointFailed(f"{name}: there is no such endpoint any more")
        on_situation(present)
        arrived = wanted_config is None or present.config == wanted_config
        if present.status == "InService" and arrived:
            return present
        # An update that was just asked for may still show the state before it.
        unmoved = unmoved + 1 if present.status == "InService" else 0
        if present.status in _SETTLED and (present.status != "InService" or unmoved > 2):
            raise _failure(account, present)
        if time.monotonic() > end:
            raise EndpointFailed(f"{name}: still {present.status} after {limit_s / 60:.0f} min")
        time.sleep(poll_s)


def finish(account: Account, deployment: Deployment) -> None:
    """What needs an endpoint in service: autoscaling."""
    for call in put_scaling(deployment):
        account.do(call)


def _alarm_and_scale(account: Account, deployment: Deployment) -> None:
    for call in [*put_alarms(deployment), *put_scaling(deployment)]:
        account.do(call)


def _refuse_unfit(present: Situation) -> None:
    name = present.name
    if not is_hashed(present.config, name):
        raise DeployError(
            f"an endpoint {name} exists that was not deployed from here (it runs on {present.config})",
            "Take another ENDPOINT_NAME.",
        )
    if present.status == "Failed":
        raise DeployError(
            f"the endpoint {name} exists and has failed: {present.reason}", "Remove it first: make clean."
        )
    if present.status not in ("InService", "UpdateRollbackFailed"):
        raise DeployError(
            f"the endpoint {name} exists and is {present.status}", "Wait until it is InService: make status."
        )


def _make(account: Account, call: Call, describe: str, key: str) -> None:
    """Create what is named by its contents, unless it is there."""
    if account.find(Call(call.service, describe, {key: call.parameters[key]})) is None:
        account.do(call)


def _eventually(account: Account, call: Call) -> None:
    """Right after its configuration was made, the endpoint may not see it yet."""
    for tried in range(_EVENTUALLY_TRIES):
        try:
            account.do(call)
        except DeployError as error:
            if "could not find" not in str(error).lower() or tried == _EVENTUALLY_TRIES - 1:
                raise
            time.sleep(_EVENTUALLY_S)
        else:
            return


def _failure(account: Account, present: Situation) -> EndpointFailed:
    lines = tuple(last_lines(account, present.name))
    reason = present.reason or "no reason was given"
    if present.status == "InService":
        message = f"{present.name}: rolled back, and serves what it served before ({present.config}): {reason}"
        return EndpointFailed(message, "The container's last lines say why.", lines)
    return EndpointFailed(f"{present.name}: {present.status}: {reason}", "make clean removes it.", lines)
