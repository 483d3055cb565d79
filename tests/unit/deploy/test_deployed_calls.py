"""What is created on AWS for an artifact and its plan, and which of its files are uploaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.deploying import BUCKET, deploy, running_config, running_model
from tests.unit.deploy.fake_aws import Platform


def test_what_is_deployed_follows_from_the_plan(amazon: Platform, tmp_path: Path) -> None:
    from capacity import Plan

    artifact = write_artifact(tmp_path / "artifact", settings={"CONTEXT": "512", "CONCURRENCY": "12"})
    assert deploy(artifact, "--instance-type", "ml.g5.xlarge", "--instances", "2") == 0
    variant = running_config()["ProductionVariants"][0]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.g5.xlarge", 2)
    assert variant["InferenceAmiVersion"] == "al2023-ami-sagemaker-inference-gpu-4-1"
    assert variant["RoutingConfig"] == {"RoutingStrategy": "LEAST_OUTSTANDING_REQUESTS"}
    assert 60 <= variant["ModelDataDownloadTimeoutInSeconds"] <= 3600
    assert 240 <= variant["ContainerStartupHealthCheckTimeoutInSeconds"] <= 3600
    assert "VolumeSizeInGB" not in variant
    container = running_model()["PrimaryContainer"]
    assert container["Image"].partition("@")[2].startswith("sha256:")
    source = container["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"].endswith("/")
    assert (source["S3DataType"], source["CompressionType"]) == ("S3Prefix", "None")
    environment = container["Environment"]
    assert (environment["CONTEXT"], environment["CONCURRENCY"]) == ("512", "6")
    assert all(len(value) <= 1024 for value in environment.values())
    plan = Plan.unpack(environment["PLAN"])
    assert (plan.instance_type, plan.instances, plan.concurrency) == ("ml.g5.xlarge", 2, 12)
    scaling = boto3.client("application-autoscaling")
    target = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"][0]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (2, 4)
    policy = scaling.describe_scaling_policies(ServiceNamespace="sagemaker")["ScalingPolicies"][0]
    assert policy["TargetTrackingScalingPolicyConfiguration"]["TargetValue"] == 6
    alarms = {alarm["AlarmName"]: alarm for alarm in boto3.client("cloudwatch").describe_alarms()["MetricAlarms"]}
    assert set(alarms) == {"rag-capacity", "rag-5xx", "rag-latency"}
    assert alarms["rag-capacity"]["Threshold"] == pytest.approx(4.8)


def test_only_changed_files_are_uploaded(amazon: Platform, tmp_path: Path) -> None:
    from deploy.account import Account
    from deploy.aws.upload import upload
    from deploy.spec.artifact_reader import read_artifact

    account = Account("us-east-1")
    first = read_artifact(write_artifact(tmp_path / "first", "um"))
    second = read_artifact(write_artifact(tmp_path / "second", "dois"))
    sent: list[int] = []
    done = upload(account, first, BUCKET, "rag", on_bytes=sent.append)
    assert (done.sent_bytes, done.copied_bytes, sum(sent)) == (first.size_bytes, 0, first.size_bytes)
    again = upload(account, first, BUCKET, "rag")
    assert (again.sent_bytes, again.copied_bytes, again.kept_bytes) == (0, 0, first.size_bytes)
    other = upload(account, second, BUCKET, "rag")
    assert other.uri != done.uri
    assert other.sent_bytes == len(json.dumps({"text": "dois"})) + 1
    assert other.copied_bytes == second.size_bytes - other.sent_bytes
    keys = [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert not any(key.endswith("/") for key in keys)


def test_a_dry_run_prints_the_calls_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.account.Account.client", lambda *_: pytest.fail("an AWS call was made"))
    artifact = write_artifact(tmp_path / "artifact")
    vpc = ("--subnets", "subnet-1,subnet-2", "--security-groups", "sg-1", "--kms-key", "k", "--capture-percent", "5")
    assert deploy(artifact, "--dry-run", *vpc) == 0
    printed = json.loads(capsys.readouterr().out)
    operations = [call["operation"] for call in printed["calls"]]
    assert operations == [
        "create_model",
        "create_endpoint_config",
        *["put_metric_alarm"] * 3,
        "create_endpoint",
        "register_scalable_target",
        "put_scaling_policy",
    ]
    model, config = (call["parameters"] for call in printed["calls"][:2])
    assert model["EnableNetworkIsolation"] is True
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 5
    assert config["KmsKeyId"] == "k"
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    update = printed["instead_of_create_endpoint_where_it_exists"]["parameters"]
    assert update["RetainAllVariantProperties"] is True
    assert "BlueGreenUpdatePolicy" in update["DeploymentConfig"]
    alarms = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [alarm["AlarmName"] for alarm in alarms] == ["rag-5xx", "rag-latency"]
    validate([*printed["calls"], printed["instead_of_create_endpoint_where_it_exists"]])
    assert deploy(artifact, "--dry-run", "--instances", "3") == 0
    update = json.loads(capsys.readouterr().out)["instead_of_create_endpoint_where_it_exists"]["parameters"]
    assert update["DeploymentConfig"]["RollingUpdatePolicy"]["MaximumBatchSize"] == {
        "Type": "INSTANCE_COUNT",
        "Value": 1,
    }


def validate(calls: list[Any]) -> None:
    """Hold the parameters to botocore's model of each service."""
    from botocore.validate import ParamValidator

    for call in calls:
        service = boto3.client(call["service"]).meta
        operation = service.service_model.operation_model(service.method_to_api_mapping[call["operation"]])
        report = ParamValidator().validate(call["parameters"], operation.input_shape)
        assert not report.has_errors(), report.generate_report()
