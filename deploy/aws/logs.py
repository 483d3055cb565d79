"""The container's last log lines, from CloudWatch."""

from __future__ import annotations

from deploy.account import Account, AwsCall
from deploy.errors import DeployError


def log_group(endpoint: str) -> str:
    """The log group of an endpoint."""
    return f"/aws/sagemaker/Endpoints/{endpoint}"


def last_lines(account: Account, endpoint: str, count: int = 15) -> list[str]:
    """The last lines of the most recent log stream; none where there are none or reading is not permitted."""
    group = log_group(endpoint)
    newest = {"logGroupName": group, "orderBy": "LastEventTime", "descending": True, "limit": 1}
    try:
        streams = account.find(AwsCall("logs", "describe_log_streams", newest))
        if not streams or not streams["logStreams"]:
            return []
        wanted = {"logGroupName": group, "logStreamName": streams["logStreams"][0]["logStreamName"], "limit": count}
        events = account.find(AwsCall("logs", "get_log_events", wanted))
    except DeployError:
        return []
    return [str(event["message"]).rstrip() for event in events["events"]] if events else []
