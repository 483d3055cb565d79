"""Every failure of a deployment as one line on stderr, with its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.cli import main
from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.deploying import deploy
from tests.unit.deploy.fake_aws import Platform


def test_an_artifact_that_does_not_fit_is_refused_before_any_call(
    amazon: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("deploy.account.Account.client", lambda *_: pytest.fail("an AWS call was made"))
    artifact = write_artifact(tmp_path / "artifact")
    more = ("--instance-type", "ml.g5.xlarge", "--instances", "1", "--context", "2048", "--concurrency", "200000")
    assert deploy(artifact, *more) == 3
    stderr = capsys.readouterr().err
    assert "any one of these makes it fit" in stderr
    assert "--" in stderr.split("1. ")[1]


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
        (
            "create_endpoint",
            "ResourceLimitExceeded",
            QUOTA,
            "deploy: create_endpoint: a quota of the account is exceeded",
        ),
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
    stderr = capsys.readouterr().err
    assert stderr.startswith(line)
    assert message in stderr
    assert len(stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("more", "status", "line"),
    [
        (("--bucket-name", "missing-bucket"), 1, "BUCKET_NAME: the bucket does not exist"),
        (("--role-arn", "rag"), 2, "ROLE_ARN 'rag' is no role ARN"),
        (("--image-name", "other"), 1, "IMAGE_NAME: other:latest is not in the registry"),
        (("--endpoint-name", "not a name"), 2, "ENDPOINT_NAME 'not a name' is no valid endpoint name"),
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
    stderr = capsys.readouterr().err
    assert line in stderr
    assert len(stderr.splitlines()) == 1


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
