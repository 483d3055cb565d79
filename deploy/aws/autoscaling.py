"""Autoscaling of an endpoint's instances by concurrent requests, never below the plan's number."""

from __future__ import annotations

from typing import Any

from deploy.account import AwsCall
from deploy.spec.deployment import Deployment
from deploy.spec.instance_plan import sessions_per_instance
from deploy.spec.names import VARIANT

_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"


def target(endpoint: str) -> dict[str, Any]:
    """The autoscaling target: the endpoint's instances."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": _DIMENSION,
    }


def policy_name(endpoint: str) -> str:
    """Name of the policy."""
    return f"{endpoint}-sessions"


def put_scaling(deployment: Deployment) -> list[AwsCall]:
    """The calls that set up autoscaling; none for a serverless endpoint, which scales by itself.

    The metric counts running, waiting and streaming requests every 10 s; the target is one instance's concurrency.
    """
    if deployment.serverless_mb:
        return []
    least = deployment.plan.instances
    most = max(least, deployment.options.max_instances or 2 * least)
    named = target(deployment.endpoint)
    tracking = {
        "TargetValue": float(sessions_per_instance(deployment.plan)),
        "PredefinedMetricSpecification": {"PredefinedMetricType": _METRIC},
        "ScaleOutCooldown": 60,
        "ScaleInCooldown": 600,
    }
    policy = {
        "PolicyName": policy_name(deployment.endpoint),
        "PolicyType": "TargetTrackingScaling",
        "TargetTrackingScalingPolicyConfiguration": tracking,
    }
    return [
        AwsCall(
            "application-autoscaling", "register_scalable_target", named | {"MinCapacity": least, "MaxCapacity": most}
        ),
        AwsCall("application-autoscaling", "put_scaling_policy", named | policy),
    ]
