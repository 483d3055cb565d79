"""An endpoint from its creation to its removal: updated under load, rolled back, failed, and left alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import boto3
import pytest

from rag_client import Client
from tests.unit.deploy.artifact_fixture import write_artifact
from tests.unit.deploy.deploying import (
    BROKEN,
    BUCKET,
    deploy,
    described,
    everything_left,
    run,
    running_config,
    running_model,
)
from tests.unit.deploy.fake_aws import Platform

pytestmark = pytest.mark.slow


@pytest.mark.slow
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

    # Another index, under load: every call is answered, first by the old version and then by the new one.
    with asking(client) as answers:
        assert deploy(write_artifact(tmp_path / "second", "o segundo")) == 0
    assert {*answers} == {"o primeiro: q", "o segundo: q"}
    assert client.ask("q")["text"] == "o segundo: q"
    output = capsys.readouterr()
    assert "endpoint rag updated" in output.out

    # A container that never becomes healthy: the update is rolled back, and the old version keeps answering.
    kept = described()["EndpointConfigName"]
    with asking(client) as answers:
        assert deploy(write_artifact(tmp_path / "third", BROKEN)) == 1
    assert {*answers} == {"o segundo: q"}
    output = capsys.readouterr()
    assert output.err.startswith("deploy: rag: rolled back, serves the previous configuration")
    assert "did not pass the ping health check" in output.err
    assert len(output.err.strip().splitlines()) == 1
    assert described()["EndpointConfigName"] == kept

    assert run("status", "--endpoint-name", "rag", "--poll-s", "0") == 0
    for _ in range(2):
        assert run("clean", "--image-name", "rag", "--endpoint-name", "rag", "--bucket-name", BUCKET) == 0
    assert everything_left() == []
    assert not (tmp_path / ".deployment.json").exists()


class asking:  # noqa: N801 - used as a with statement
    """Asks questions without a pause during a with block, and fails the block if one of them fails."""

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


def test_the_endpoint_s_own_failure_is_reported_with_its_last_log_lines(
    amazon: Platform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = boto3.client("logs")
    group = {"logGroupName": "/aws/sagemaker/Endpoints/rag"}
    logs.create_log_group(**group)
    logs.create_log_stream(**group, logStreamName="AllTraffic/i-1")
    events = [{"timestamp": int(time.time() * 1000), "message": "IndexRefused: passages.jsonl is damaged"}]
    logs.put_log_events(**group, logStreamName="AllTraffic/i-1", logEvents=events)
    assert deploy(write_artifact(tmp_path / "artifact", BROKEN)) == 1
    output = capsys.readouterr()
    assert output.err.startswith("deploy: rag: Failed: The primary container")
    assert "IndexRefused: passages.jsonl is damaged" in output.out
    assert deploy(write_artifact(tmp_path / "fixed")) == 1
    assert "the endpoint rag exists and has failed" in capsys.readouterr().err


def test_right_after_its_configuration_the_endpoint_may_take_a_second_try(
    amazon: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.aws.endpoint._EVENTUALLY_S", 0.01)
    amazon.fail("create_endpoint", "ValidationException", "Could not find endpoint configuration", times=2)
    assert deploy(write_artifact(tmp_path / "artifact")) == 0
    assert amazon.calls.count("create_endpoint") == 3


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
    assert "an endpoint rag exists that was not deployed by this tool" in capsys.readouterr().err
