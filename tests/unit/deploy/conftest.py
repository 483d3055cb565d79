"""Invalid credentials, the fake container, the local runtime in front of it, and a fake account."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import botocore.session
import pytest

from deploy.local.local_endpoint import Limits
from deploy.local.runtime import LocalRuntime
from rag_client.client import CONFIG, Client
from tests.unit.deploy.deploying import BROKEN, BUCKET, MANIFEST
from tests.unit.deploy.fake_aws import Platform, platform
from tests.unit.deploy.fake_container import FakeContainer

ENDPOINT = "rag"


@pytest.fixture(autouse=True, scope="session")
def _service_models_read_once() -> Iterator[None]:
    """Each boto3 session reads botocore's large service models again, and the tests create dozens of sessions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.loaders.create_loader))
        yield


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it caches the first credentials
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)


@pytest.fixture
def container() -> Iterator[FakeContainer]:
    with FakeContainer() as container:
        yield container


@pytest.fixture
def runtime(container: FakeContainer) -> Iterator[LocalRuntime]:
    """The local runtime in front of the fake container, with short limits."""
    limits = Limits(plain_s=0.4, stream_s=0.6, ping_s=0.2, ping_every_s=0.02, start_up_s=0.5, failed_pings=2)
    with LocalRuntime(limits=limits) as runtime:
        assert runtime.serve(ENDPOINT, container.url).wait(5) == "InService"
        yield runtime


@pytest.fixture
def boto(runtime: LocalRuntime) -> Any:
    """A real boto3 client of the local runtime."""
    return boto3.client("sagemaker-runtime", endpoint_url=runtime.url, config=CONFIG)


@pytest.fixture
def client(runtime: LocalRuntime) -> Client:
    return Client(ENDPOINT, endpoint_url=runtime.url, patience_s=2)


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Platform]:
    """An account with the bucket and the image; a container answers with the text of its index."""
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
