"""CloudWatch alarms of an endpoint: near capacity, 5xx errors, latency. An update is rolled back on the last two."""

from __future__ import annotations

from typing import Any

from deploy.account import AwsCall
from deploy.spec.deployment import Deployment
from deploy.spec.instance_plan import sessions_per_instance
from deploy.spec.names import VARIANT

CAPACITY_SHARE = 0.8
_MOST_5XX = 5


def alarm_names(endpoint: str) -> dict[str, str]:
    """Alarm kind → its name."""
    return {kind: f"{endpoint}-{kind}" for kind in ("capacity", "5xx", "latency")}


def rollback_alarms(endpoint: str) -> tuple[str, ...]:
    """The alarms that indicate a bad version. Load near capacity does not."""
    names = alarm_names(endpoint)
    return names["5xx"], names["latency"]


def put_alarms(deployment: Deployment) -> list[AwsCall]:
    """The calls that create or update the alarms."""
    busy = max(1.0, CAPACITY_SHARE * sessions_per_instance(deployment.plan))
    endpoint = deployment.endpoint
    full = _alarm(endpoint, "capacity", "ConcurrentRequestsPerModel", "Maximum", busy, minutes=3)
    return [
        *(() if deployment.serverless_mb else (full,)),  # a serverless endpoint has no such metric
        _alarm(endpoint, "5xx", "Invocation5XXErrors", "Sum", _MOST_5XX, minutes=2),
        # ModelLatency is in microseconds. The average, so that a single long answer raises no alarm.
        _alarm(endpoint, "latency", "ModelLatency", "Average", deployment.options.latency_s * 1e6, minutes=3),
    ]


def _alarm(endpoint: str, kind: str, metric: str, statistic: str, threshold: float, *, minutes: int) -> AwsCall:
    parameters: dict[str, Any] = {
        "AlarmName": alarm_names(endpoint)[kind],
        "Namespace": "AWS/SageMaker",
        "MetricName": metric,
        "Dimensions": [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}],
        "Statistic": statistic,
        "Period": 60,
        "EvaluationPeriods": minutes,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }
    return AwsCall("cloudwatch", "put_metric_alarm", parameters)
