"""A deployed endpoint whose container is a real `serve` with the default models: asked, streamed, in a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from benchmarks.harness.process import ServedProcess
from deploy.cli import main
from deploy.local.local_endpoint import Limits
from rag_client import Client
from rag_client.failures import InvalidRequest
from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.fake_aws import Platform, platform


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Platform]:
    servers: list[ServedProcess] = []

    def launch(container: dict[str, Any], _: dict[str, bytes]) -> str:
        servers.append(ServedProcess(container["Environment"], log=tmp_path / "log"))
        return servers[-1].url

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.chdir(tmp_path)
    try:
        with platform(launch, monkeypatch, Limits(start_up_s=120)) as made:
            boto3.client("s3").create_bucket(Bucket="rag-bucket")
            yield made
    finally:
        for server in servers:
            server.stop()


def test_an_endpoint_answers_as_the_container_does(amazon: Platform, tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path / "artifact", settings={"CONCURRENCY": "2"})
    named = ["--endpoint-name", "rag", "--image-name", "123456789012.dkr.ecr.us-east-1.amazonaws.com/rag:1"]
    wanted = ["--role-arn", "arn:aws:iam::123456789012:role/rag", "--bucket-name", "rag-bucket"]
    assert main(["deploy", *named, *wanted, "--artifact", str(artifact), "--poll-s", "1"]) == 0
    client = Client("rag", endpoint_url=amazon.runtime.url)
    answer = client.ask("Qual a capital do Brasil?")
    assert "Brasília" in answer["text"]
    *pieces, end = client.stream("Qual a capital do Brasil?")
    assert "".join(event.get("text", "") for event in pieces).strip() == end["text"] == answer["text"]
    with pytest.raises(InvalidRequest) as raised:
        client.ask("Qual a capital do Brasil?", max_new_tokens=5000)
    assert raised.value.status == 422
    assert raised.value.code == "prompt_too_long"
    with client.session() as session:
        assert "Brasília" in session.ask("Qual a capital do Brasil?")["text"]
        assert session.id
        assert session.expires
        assert list(session.stream("Quem escreveu Dom Casmurro?"))[-1]["type"] == "end"
    assert main(["clean", "--endpoint-name", "rag", "--poll-s", "0"]) == 0
    assert boto3.client("sagemaker").list_endpoints()["Endpoints"] == []
