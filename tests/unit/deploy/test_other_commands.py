"""`cost`, `clean` and `push`."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.deploying import deploy, run
from tests.unit.deploy.fake_aws import Platform

pytestmark = pytest.mark.slow


def test_cost_names_what_runs_and_its_price(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cost") == 0
    assert "nothing is running" in capsys.readouterr().out
    assert deploy(write_artifact(tmp_path / "artifact"), "--instance-type", "ml.g5.xlarge", "--instances", "2") == 0
    capsys.readouterr()
    assert run("cost") == 0
    output = capsys.readouterr().out
    assert "2 × ml.g5.xlarge" in output
    assert "2.82" in output


def test_clean_needs_a_name_and_accepts_an_image_only_if_it_was_deployed_from_this_directory(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("clean") == 2
    assert "ENDPOINT_NAME is not set" in capsys.readouterr().err
    assert run("clean", "--image-name", "rag") == 0
    assert "no endpoint was deployed from this directory" in capsys.readouterr().out
    assert deploy(write_artifact(tmp_path / "artifact"), "--endpoint-name", "mine") == 0
    assert run("clean", "--image-name", "other") == 0
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"]
    assert run("clean", "--image-name", "rag") == 0
    assert "the endpoint mine is removed" in capsys.readouterr().out


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
