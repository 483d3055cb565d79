"""Autoscaling of an endpoint's instances: as many as the sessions of the plan ask for, never fewer than it has."""

from __future__ import annotations

from typing import Any

from deploy.account import Call
from deploy.spec.deployment import Deployment
from deploy.spec.instance_plan import sessions_per_instance
from deploy.spec.names import VARIANT

_DIMENSION = "sagemaker:variant:DesiredInstanceCount"
_METRIC = "SageMakerVariantConcurrentRequestsPerModelHighResolution"


def target(endpoint: str) -> dict[str, Any]:
    """What names the endpoint's instances to the autoscaler."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint}/variant/{VARIANT}",
        "ScalableDimension": _DIMENSION,
    }


def policy_name(endpoint: str) -> str:
    """What the policy is called."""
    return f"{endpoint}-sessions"


def put_scaling(deployment: Deployment) -> list[Call]:
    """The calls that set it up; none for a serverless endpoint, which scales by itself.

    The metric counts requests that run, wait or stream, every 10 s; its target is what one instance runs at once.
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
        Call(
            "application-autoscaling", "register_scalable_target", named | {"MinCapacity": least, "MaxCapacity": most}
        ),
        Call("application-autoscaling", "put_scaling_policy", named | policy),
    ]
