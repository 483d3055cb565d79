"""The account that the deployment tests use, the commands, and what they left in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3

from deploy.cli import main

ROLE = "arn:aws:iam::123456789012:role/rag"
BUCKET = "rag-bucket"
MANIFEST = '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}'
BROKEN = "this index breaks the container"


def run(command: str, *more: str) -> int:
    return main([command, "--region", "us-east-1", *more])


def deploy(artifact: Path, *more: str, command: str = "deploy") -> int:
    named = ("--image-name", "rag", "--role-arn", ROLE, "--bucket-name", BUCKET, "--artifact", str(artifact))
    return run(command, *named, "--poll-s", "0", *more)


def described() -> Any:
    return boto3.client("sagemaker").describe_endpoint(EndpointName="rag")


def running_config() -> Any:
    sagemaker = boto3.client("sagemaker")
    return sagemaker.describe_endpoint_config(EndpointConfigName=described()["EndpointConfigName"])


def running_model() -> Any:
    name = running_config()["ProductionVariants"][0]["ModelName"]
    return boto3.client("sagemaker").describe_model(ModelName=name)


def everything_left() -> list[str]:
    sagemaker = boto3.client("sagemaker")
    scaling = boto3.client("application-autoscaling")
    return [
        *(item["EndpointName"] for item in sagemaker.list_endpoints()["Endpoints"]),
        *(item["EndpointConfigName"] for item in sagemaker.list_endpoint_configs()["EndpointConfigs"]),
        *(item["ModelName"] for item in sagemaker.list_models()["Models"]),
        *(item["AlarmName"] for item in boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]),
        *(
            item["ResourceId"]
            for item in scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
        ),
        *(item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", ())),
    ]
