"""From an artifact to an endpoint that answers, its update, its rollback, its end; every way to fail, as one line."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from deploy.cli import main
from rag_client.client import Client
from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.fake_aws import Platform, platform
from tests.unit.deploy.fake_container import FakeContainer

ROLE = "arn:aws:iam::123456789012:role/rag"
BUCKET = "rag-bucket"
MANIFEST = '{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json"}'
BROKEN = "this index breaks the container"


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Platform]:
    """An account with the bucket, the image, and containers that say what their index holds."""
    started: list[FakeContainer] = []

    def launch(_: dict[str, Any], files: dict[str, bytes]) -> str:
        text = json.loads(files["index/passages.jsonl"])["text"] if files else "serverless"
        started.append(FakeContainer(text, ping=500 if text == BROKEN else 200))
        return started[-1].url

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    with platform(launch, monkeypatch) as made:
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        ecr = boto3.client("ecr")
        ecr.create_repository(repositoryName="rag")
        ecr.put_image(repositoryName="rag", imageManifest=MANIFEST, imageTag="latest")
        yield made
    for container in started:
        container.close()


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


def test_the_whole_life_of_an_endpoint(amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write_artifact(tmp_path / "first", "o primeiro")
    assert deploy(first) == 0
    client = Client("rag", endpoint_url=amazon.runtime.url)
    assert client.ask("q")["text"] == "o primeiro: q"
    assert list(client.stream("q"))[-1] == {"type": "end", "text": "o primeiro: q"}

    # The same again changes nothing.
    before = list(amazon.calls)
    assert deploy(first) == 0
    assert amazon.calls == before
    assert "unchanged" in capsys.readouterr().out

    # Another index, under load: every call is answered, by the old one and then by the new one.
    with asking(client) as answers:
        assert deploy(write_artifact(tmp_path / "second", "o segundo")) == 0
    assert {*answers} == {"o primeiro: q", "o segundo: q"}
    assert client.ask("q")["text"] == "o segundo: q"
    told = capsys.readouterr()
    assert "endpoint rag updated" in told.out

    # A container that never becomes healthy: rolled back, said so, and the old one went on answering.
    kept = described()["EndpointConfigName"]
    with asking(client) as answers:
        assert deploy(write_artifact(tmp_path / "third", BROKEN)) == 1
    assert {*answers} == {"o segundo: q"}
    told = capsys.readouterr()
    assert told.err.startswith("deploy: rag: rolled back, and serves what it served before")
    assert "did not pass the ping health check" in told.err
    assert len(told.err.strip().splitlines()) == 1
    assert described()["EndpointConfigName"] == kept

    assert run("status", "--endpoint-name", "rag", "--poll-s", "0") == 0
    for _ in range(2):
        assert run("clean", "--image-name", "rag", "--endpoint-name", "rag", "--bucket-name", BUCKET) == 0
    assert everything_left() == []
    assert not (tmp_path / ".deployment.json").exists()


class asking:  # noqa: N801 - reads as a word of the with statement
    """Questions without a pause for the length of a with block; an error of any of them is the block's."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._answers: list[str] = []
        self._errors: list[Exception] = []

    def __enter__(self) -> list[str]:
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        while not self._answers and not self._errors:
            time.sleep(0.005)
        return self._answers

    def __exit__(self, *_: object) -> None:
        before = len(self._answers)
        while len(self._answers) < before + 3 and not self._errors:
            time.sleep(0.005)
        self._stop.set()
        self._thread.join()
        assert self._errors == []

    def _ask(self) -> None:
        try:
            while not self._stop.is_set():
                self._answers.append(self._client.ask("q")["text"])
        except Exception as error:
            self._errors.append(error)


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


def test_only_what_changed_travels(amazon: Platform, tmp_path: Path) -> None:
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


def test_an_artifact_that_does_not_fit_is_refused_before_any_call(
    amazon: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.account.Account.client", lambda *_: pytest.fail("AWS was asked"))
    artifact = write_artifact(tmp_path / "artifact")
    more = ("--instance-type", "ml.g5.xlarge", "--instances", "1", "--context", "2048", "--concurrency", "200000")
    assert deploy(artifact, *more) == 3
    told = capsys.readouterr().err
    assert "any one of these makes it fit" in told
    assert "--" in told.split("1. ")[1]


def test_a_dry_run_prints_the_calls_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.account.Account.client", lambda *_: pytest.fail("AWS was asked"))
    artifact = write_artifact(tmp_path / "artifact")
    vpc = ("--subnets", "subnet-1,subnet-2", "--security-groups", "sg-1", "--kms-key", "k", "--capture-percent", "5")
    assert deploy(artifact, "--dry-run", *vpc) == 0
    told = json.loads(capsys.readouterr().out)
    operations = [call["operation"] for call in told["calls"]]
    assert operations == [
        "create_model",
        "create_endpoint_config",
        *["put_metric_alarm"] * 3,
        "create_endpoint",
        "register_scalable_target",
        "put_scaling_policy",
    ]
    model, config = (call["parameters"] for call in told["calls"][:2])
    assert model["EnableNetworkIsolation"] is True
    assert model["VpcConfig"] == {"Subnets": ["subnet-1", "subnet-2"], "SecurityGroupIds": ["sg-1"]}
    assert config["DataCaptureConfig"]["InitialSamplingPercentage"] == 5
    assert config["KmsKeyId"] == "k"
    assert config["ProductionVariants"][0]["InstanceType"] == "ml.m5.large"
    update = told["instead_of_create_endpoint_where_it_exists"]["parameters"]
    assert update["RetainAllVariantProperties"] is True
    assert "BlueGreenUpdatePolicy" in update["DeploymentConfig"]
    alarms = update["DeploymentConfig"]["AutoRollbackConfiguration"]["Alarms"]
    assert [alarm["AlarmName"] for alarm in alarms] == ["rag-5xx", "rag-latency"]
    validate([*told["calls"], told["instead_of_create_endpoint_where_it_exists"]])
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


def test_a_serverless_endpoint_takes_the_smallest_memory_that_holds_it(amazon: Platform, tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", settings={"CONCURRENCY": "2", "CONTEXT": "256"})
    assert deploy(artifact, command="serverless") == 0
    variant = running_config()["ProductionVariants"][0]
    assert variant["ServerlessConfig"]["MemorySizeInMB"] in range(1024, 6145, 1024)
    assert variant["ServerlessConfig"]["MaxConcurrency"] == 2
    container = running_model()["PrimaryContainer"]
    assert container["ModelDataUrl"].endswith(".tar.gz")
    assert container["Environment"]["MAX_BODY_MB"] == "4"
    assert run("clean", "--endpoint-name", "rag", "--bucket-name", BUCKET) == 0
    assert everything_left() == []


def test_cost_names_what_runs_and_its_price(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cost") == 0
    assert "nothing is running" in capsys.readouterr().out
    assert deploy(write_artifact(tmp_path / "artifact"), "--instance-type", "ml.g5.xlarge", "--instances", "2") == 0
    capsys.readouterr()
    assert run("cost") == 0
    told = capsys.readouterr().out
    assert "2 × ml.g5.xlarge" in told
    assert "2.82" in told


def test_the_endpoint_s_own_failure_is_told_with_its_last_log_lines(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = boto3.client("logs")
    group = {"logGroupName": "/aws/sagemaker/Endpoints/rag"}
    logs.create_log_group(**group)
    logs.create_log_stream(**group, logStreamName="AllTraffic/i-1")
    events = [{"timestamp": int(time.time() * 1000), "message": "IndexRefused: passages.jsonl is damaged"}]
    logs.put_log_events(**group, logStreamName="AllTraffic/i-1", logEvents=events)
    assert deploy(write_artifact(tmp_path / "artifact", BROKEN)) == 1
    told = capsys.readouterr()
    assert told.err.startswith("deploy: rag: Failed: The primary container")
    assert "IndexRefused: passages.jsonl is damaged" in told.out
    assert deploy(write_artifact(tmp_path / "fixed")) == 1
    assert "the endpoint rag exists and has failed" in capsys.readouterr().err


def test_right_after_its_configuration_the_endpoint_may_take_a_second_try(
    amazon: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.aws.endpoint._EVENTUALLY_S", 0.01)
    amazon.fail("create_endpoint", "ValidationException", "Could not find endpoint configuration", times=2)
    assert deploy(write_artifact(tmp_path / "artifact")) == 0
    assert amazon.calls.count("create_endpoint") == 3


QUOTA = "The account-level service limit 'ml.m5.large for endpoint usage' is 0 Instances"


@pytest.mark.parametrize(
    ("operation", "code", "message", "line"),
    [
        (
            "create_model",
            "ValidationException",
            "Could not assume role arn:x",
            "deploy: ROLE_ARN: Could not assume role",
        ),
        ("create_endpoint", "ResourceLimitExceeded", QUOTA, "deploy: create_endpoint: a quota of the account"),
        ("create_model", "ThrottlingException", "Rate exceeded", "deploy: create_model: AWS throttles"),
        ("create_model", "AccessDeniedException", "no sagemaker:CreateModel", "deploy: create_model: not allowed"),
        ("create_endpoint", "ValidationException", 'Cannot create already existing endpoint "x".', "deploy: create_"),
        ("create_model", "ExpiredTokenException", "expired", "deploy: create_model: the credentials are not valid"),
        ("create_endpoint_config", "ValidationException", "odd", "deploy: create_endpoint_config: ValidationException"),
    ],
)
def test_an_error_of_aws_is_one_clear_line(
    amazon: Platform,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    operation: str,
    code: str,
    message: str,
    line: str,
) -> None:
    amazon.fail(operation, code, message)
    assert deploy(write_artifact(tmp_path / "artifact")) == 1
    told = capsys.readouterr().err
    assert told.startswith(line)
    assert message in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        (("--bucket-name", "missing-bucket"), 1, "BUCKET_NAME: the bucket does not exist"),
        (("--role-arn", "rag"), 2, "ROLE_ARN 'rag' is no role"),
        (("--image-name", "other"), 1, "IMAGE_NAME: other:latest is not in the registry"),
        (("--endpoint-name", "not a name"), 2, "ENDPOINT_NAME 'not a name' is no endpoint's name"),
        (("--artifact", "/nowhere"), 2, "/nowhere is no artifact"),
        (("--instance-type", "ml.g5.huge"), 2, "unknown hardware 'ml.g5.huge'; nearest:"),
        (("--cuda", "15.0", "--instance-type", "ml.g5.xlarge"), 2, "CUDA 15.0: no driver"),
        (("--update", "rolling", "--instances", "1", "--dry-run"), 2, "UPDATE=rolling needs two"),
        (("--subnets", "subnet-1"), 2, "SUBNETS and SECURITY_GROUPS go together"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    amazon: Platform,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    status: int,
    line: str,
) -> None:
    assert deploy(write_artifact(tmp_path / "artifact"), *more) == status
    told = capsys.readouterr().err
    assert line in told
    assert len(told.splitlines()) == 1


def test_without_credentials_or_region_the_line_says_so(
    amazon: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert deploy(write_artifact(tmp_path / "artifact")) == 1
    assert capsys.readouterr().err == "deploy: no AWS credentials. Run `aws configure`, or set AWS_PROFILE.\n"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    assert main(["cost"]) == 1
    assert capsys.readouterr().err == "cost: no region. Set REGION, or run `aws configure`.\n"


def test_an_endpoint_that_others_made_is_left_alone(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sagemaker = boto3.client("sagemaker")
    artifact = write_artifact(tmp_path / "artifact")
    assert deploy(artifact, "--endpoint-name", "mine") == 0
    config = sagemaker.describe_endpoint(EndpointName="mine")["EndpointConfigName"]
    sagemaker.create_endpoint(EndpointName="rag", EndpointConfigName=config)
    capsys.readouterr()
    assert deploy(artifact, "--endpoint-name", "rag") == 1
    assert "an endpoint rag exists that was not deployed from here" in capsys.readouterr().err


def test_clean_wants_a_name_and_takes_the_image_s_only_if_it_was_deployed_from_here(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("clean") == 2
    assert "ENDPOINT_NAME is not set" in capsys.readouterr().err
    assert run("clean", "--image-name", "rag") == 0
    assert "no endpoint was deployed from here" in capsys.readouterr().out
    assert deploy(write_artifact(tmp_path / "artifact"), "--endpoint-name", "mine") == 0
    assert run("clean", "--image-name", "other") == 0
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"]
    assert run("clean", "--image-name", "rag") == 0
    assert "nothing of the endpoint mine is left" in capsys.readouterr().out


def test_push_logs_in_tags_and_pushes_through_the_command_given(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = tmp_path / "seen"
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {seen}\n[ "$1" != login ] || {{ cat; echo; }} >> {seen}\n')
    docker.chmod(0o755)
    assert run("push", "--image-name", "rag", "--docker", str(docker)) == 0
    login, password, tag, pushed = seen.read_text().splitlines()
    registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
    assert login.startswith("login --username AWS --password-stdin ")
    assert password
    assert tag == f"tag rag:latest {registry}/rag:latest"
    assert pushed == f"push {registry}/rag:latest"
    assert f"pushed {registry}/rag@sha256:" in capsys.readouterr().out
    assert run("push", "--image-name", "rag", "--docker", "/nowhere/docker") == 1
    assert "/nowhere/docker can't be run" in capsys.readouterr().err
