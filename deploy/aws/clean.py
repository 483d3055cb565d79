"""Remove everything that `deploy` created, dependents first. A resource that does not exist is no error."""

from __future__ import annotations

import time
from collections.abc import Callable

from deploy.account import Account, AwsCall
from deploy.aws.alarms import alarm_names
from deploy.aws.autoscaling import policy_name, target
from deploy.aws.endpoint import find_endpoint
from deploy.aws.upload import remove_artifacts
from deploy.errors import DeployError
from deploy.spec.names import is_hashed

Report = Callable[[str], object]


def clean(
    account: Account,
    endpoint: str,
    report: Report,
    *,
    bucket: str | None = None,
    repository: str | None = None,
    poll_s: float = 5.0,
    limit_s: float = 1800.0,
) -> None:
    """Remove autoscaling, alarms, endpoint, configurations, models; the artifacts in `bucket` and the images of
    `repository` only where they are given. `report` gets a line for each. Raises DeployError.
    """
    named = target(endpoint)
    _remove(
        account,
        AwsCall("application-autoscaling", "delete_scaling_policy", named | {"PolicyName": policy_name(endpoint)}),
    )
    if _remove(account, AwsCall("application-autoscaling", "deregister_scalable_target", named)):
        report("autoscaling removed")
    account.do(AwsCall("cloudwatch", "delete_alarms", {"AlarmNames": sorted(alarm_names(endpoint).values())}))
    _remove_endpoint(account, endpoint, report, poll_s, limit_s)
    for noun, listing, member, key, removal in (
        ("configuration", "list_endpoint_configs", "EndpointConfigs", "EndpointConfigName", "delete_endpoint_config"),
        ("model", "list_models", "Models", "ModelName", "delete_model"),
    ):
        found = account.pages(AwsCall("sagemaker", listing, {"NameContains": endpoint}), member)
        for name in [item[key] for item in found if is_hashed(item[key], endpoint)]:
            if _remove(account, AwsCall("sagemaker", removal, {key: name})):
                report(f"{noun} {name} removed")
    if bucket:
        report(f"{remove_artifacts(account, bucket, endpoint)} objects of its artifacts removed from {bucket}")
    if repository and _remove(
        account, AwsCall("ecr", "delete_repository", {"repositoryName": repository, "force": True})
    ):
        report(f"repository {repository} removed")


def _remove_endpoint(account: Account, endpoint: str, report: Report, poll_s: float, limit_s: float) -> None:
    if find_endpoint(account, endpoint) is None:
        return
    end = time.monotonic() + limit_s
    _remove(account, AwsCall("sagemaker", "delete_endpoint", {"EndpointName": endpoint}))
    while (present := find_endpoint(account, endpoint)) is not None:
        if present.status == "Failed" and present.reason and time.monotonic() > end:
            raise DeployError(f"the endpoint {endpoint} can't be removed: {present.reason}")
        if time.monotonic() > end:
            raise DeployError(f"the endpoint {endpoint} is still {present.status}", "Repeat the command later.")
        time.sleep(poll_s)
    report(f"endpoint {endpoint} removed")


def _remove(account: Account, call: AwsCall) -> bool:
    """Whether there was a resource to remove."""
    return account.find(call) is not None
