"""An endpoint on AWS: created or updated to a Deployment, and polled until it is in service or has failed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from deploy.account import Account, AwsCall
from deploy.aws.alarms import put_alarms, rollback_alarms
from deploy.aws.autoscaling import put_scaling
from deploy.aws.logs import last_lines
from deploy.errors import DeployError, EndpointFailed
from deploy.spec.deployment import Deployment
from deploy.spec.names import is_hashed

_SETTLED = ("InService", "Failed", "UpdateRollbackFailed", "OutOfService")
_EVENTUALLY_TRIES, _EVENTUALLY_S = 5, 3.0


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """An endpoint's state at one moment. `running`: its instances."""

    name: str
    status: str
    config: str
    reason: str
    running: int

    @classmethod
    def of(cls, response: dict[str, Any]) -> EndpointStatus:
        """From DescribeEndpoint's response."""
        variants = response.get("ProductionVariants", ())
        return cls(
            name=response["EndpointName"],
            status=response["EndpointStatus"],
            config=response.get("EndpointConfigName", ""),
            reason=response.get("FailureReason", ""),
            running=sum(variant.get("CurrentInstanceCount", 0) for variant in variants),
        )


OnStatus = Callable[[EndpointStatus], object]


def find_endpoint(account: Account, name: str) -> EndpointStatus | None:
    """The endpoint's current state, or None where there is no such endpoint."""
    response = account.find(AwsCall("sagemaker", "describe_endpoint", {"EndpointName": name}))
    return None if response is None else EndpointStatus.of(response)


def bring_up(account: Account, deployment: Deployment) -> str:
    """Create what is missing, then create or update the endpoint; "created", "updated" or "unchanged".

    Raises DeployError: the endpoint is being changed, has failed, or was not deployed by this tool.
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
    on_status: OnStatus = lambda _: None,
    poll_s: float = 10.0,
    limit_s: float = 7200.0,
) -> EndpointStatus:
    """The endpoint once it is InService with `wanted_config` (with any, where None).

    Raises EndpointFailed with FailureReason and the container's last log lines: for Failed, UpdateRollbackFailed and
    OutOfService, and for InService with another configuration, the final state of a rollback.
    """
    end, unchanged_polls = time.monotonic() + limit_s, 0
    while True:
        present = find_endpoint(account, name)
        if present is None:
            raise EndpointFailed(f"{name}: the endpoint no longer exists")
        on_status(present)
        arrived = wanted_config is None or present.config == wanted_config
        if present.status == "InService" and arrived:
            return present
        # Right after the request for an update, the state before it may still be reported.
        unchanged_polls = unchanged_polls + 1 if present.status == "InService" else 0
        if present.status in _SETTLED and (present.status != "InService" or unchanged_polls > 2):
            raise _failure(account, present)
        if time.monotonic() > end:
            raise EndpointFailed(f"{name}: still {present.status} after {limit_s / 60:.0f} min")
        time.sleep(poll_s)


def finish(account: Account, deployment: Deployment) -> None:
    """Set up autoscaling, which needs an endpoint in service."""
    for call in put_scaling(deployment):
        account.do(call)


def _alarm_and_scale(account: Account, deployment: Deployment) -> None:
    for call in [*put_alarms(deployment), *put_scaling(deployment)]:
        account.do(call)


def _refuse_unfit(present: EndpointStatus) -> None:
    name = present.name
    if not is_hashed(present.config, name):
        raise DeployError(
            f"an endpoint {name} exists that was not deployed by this tool (its configuration is {present.config})",
            "Choose another ENDPOINT_NAME.",
        )
    if present.status == "Failed":
        raise DeployError(
            f"the endpoint {name} exists and has failed: {present.reason}", "Remove it first: make clean."
        )
    if present.status not in ("InService", "UpdateRollbackFailed"):
        raise DeployError(
            f"the endpoint {name} exists and is {present.status}", "Wait until it is InService: make status."
        )


def _make(account: Account, call: AwsCall, describe: str, key: str) -> None:
    """Create a resource that is named by the hash of its content, unless it exists."""
    if account.find(AwsCall(call.service, describe, {key: call.parameters[key]})) is None:
        account.do(call)


def _eventually(account: Account, call: AwsCall) -> None:
    """Retry while the new configuration is not yet visible to SageMaker."""
    for attempt in range(_EVENTUALLY_TRIES):
        try:
            account.do(call)
        except DeployError as error:
            if "could not find" not in str(error).lower() or attempt == _EVENTUALLY_TRIES - 1:
                raise
            time.sleep(_EVENTUALLY_S)
        else:
            return


def _failure(account: Account, present: EndpointStatus) -> EndpointFailed:
    lines = tuple(last_lines(account, present.name))
    reason = present.reason or "no reason was given"
    if present.status == "InService":
        message = f"{present.name}: rolled back, serves the previous configuration ({present.config}): {reason}"
        return EndpointFailed(message, "The container's last log lines are above.", lines)
    return EndpointFailed(f"{present.name}: {present.status}: {reason}", "make clean removes it.", lines)
