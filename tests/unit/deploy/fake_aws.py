"""A fake AWS: moto's server with its gaps filled, and the local runtime in front of containers that it starts.

Filled in here: every instance type is valid; an endpoint is Creating until its container's /ping returns 200;
update_endpoint replaces the container without a failed call, and rolls back where the new one never becomes healthy;
`fail` makes calls fail. A container is what the test's `launch` starts from the model and its uploaded files.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto.core.responses import ActionResult
from moto.sagemaker.exceptions import AWSValidationException
from moto.sagemaker.models import FakeEndpointConfig, SageMakerModelBackend
from moto.sagemaker.responses import SageMakerResponse
from moto.server import ThreadedMotoServer

from deploy.local.local_endpoint import CREATING, IN_SERVICE, Limits, LocalEndpoint
from deploy.local.runtime import LocalRuntime

# Starts a container from the model's primary container and the files below its S3 prefix; its URL.
Launch = Callable[[dict[str, Any], dict[str, bytes]], str]
LIMITS = Limits(ping_every_s=0.02, ping_s=2.0, start_up_s=0.6)


@functools.cache
def _moto_url() -> str:
    """One moto server for all tests of the process; each test resets it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    return f"http://{host}:{port}"


class Platform:
    """AWS at `url` and its SageMaker Runtime at `runtime.url`."""

    def __init__(self, launch: Launch, patch: pytest.MonkeyPatch, limits: Limits = LIMITS) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self.launch = launch
        self.limits = limits
        self.runtime = LocalRuntime(limits=limits)
        self.calls: list[str] = []
        self._candidates: dict[str, tuple[LocalEndpoint, str]] = {}
        self._faults: dict[str, list[tuple[str, str]]] = {}
        self.url = _moto_url()
        patch.setenv("AWS_ENDPOINT_URL", self.url)
        patch.setattr(FakeEndpointConfig, "validate_instance_type", lambda _self, _type: None)
        self._patch_backend(patch)

    def close(self) -> None:
        """Stop, and reset everything created."""
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/moto-api/reset", method="POST")).close()
        for candidate, _ in self._candidates.values():
            candidate.close()
        self.runtime.close()

    def fail(self, operation: str, code: str, message: str, times: int = 1) -> None:
        """Make the next `times` calls of a SageMaker operation fail."""
        self._faults.setdefault(operation, []).extend([(code, message)] * times)

    def _patch_backend(self, patch: pytest.MonkeyPatch) -> None:
        create, describe, delete = (
            getattr(SageMakerModelBackend, f"{verb}_endpoint") for verb in ("create", "describe", "delete")
        )
        platform = self

        def create_endpoint(backend: Any, endpoint_name: str, **parameters: Any) -> Any:
            if endpoint_name in backend.endpoints:
                raise AWSValidationException(f'Cannot create already existing endpoint "{endpoint_name}".')
            made = create(backend, endpoint_name=endpoint_name, **parameters)
            made.endpoint_status = "Creating"
            platform._start(backend, endpoint_name, made.endpoint_config_name)
            return made

        def update_endpoint(response: Any) -> ActionResult:
            name, config = response._get_param("EndpointName"), response._get_param("EndpointConfigName")
            backend = response.sagemaker_backend
            backend.describe_endpoint_config(config)
            backend.endpoints[name].endpoint_status = "Updating"
            platform._start(backend, name, config)
            return ActionResult({"EndpointArn": backend.endpoints[name].arn})

        def describe_endpoint(backend: Any, endpoint_name: str) -> Any:
            if endpoint_name in backend.endpoints:
                platform._advance(backend, backend.endpoints[endpoint_name])
            return describe(backend, endpoint_name)

        def delete_endpoint(backend: Any, endpoint_name: str) -> None:
            delete(backend, endpoint_name)
            platform.runtime.remove(endpoint_name)

        patch.setattr(SageMakerModelBackend, "create_endpoint", create_endpoint)
        patch.setattr(SageMakerModelBackend, "describe_endpoint", describe_endpoint)
        patch.setattr(SageMakerModelBackend, "delete_endpoint", delete_endpoint)
        patch.setattr(SageMakerResponse, "update_endpoint", update_endpoint, raising=False)
        for operation in ("create_model", "create_endpoint_config", "create_endpoint", "update_endpoint"):
            self._watch(operation, patch)

    def _watch(self, operation: str, patch: pytest.MonkeyPatch) -> None:
        original = getattr(SageMakerResponse, operation)

        def watched(response: Any) -> Any:
            self.calls.append(operation)
            if self._faults.get(operation):
                code, message = self._faults[operation].pop(0)
                return 400, {"status": 400}, json.dumps({"__type": code, "message": message})
            return original(response)

        patch.setattr(SageMakerResponse, operation, watched)

    def _start(self, backend: Any, name: str, config: str) -> None:
        model = backend.endpoint_configs[config].production_variants[0]["ModelName"]
        container = backend._models[model].primary_container
        url = self.launch(container, _files(container))
        self._candidates[name] = (LocalEndpoint(name, url, self.limits), config)

    def _advance(self, backend: Any, endpoint: Any) -> None:
        """Bring the endpoint's status up to date with its container's."""
        name = endpoint.endpoint_name
        if endpoint.endpoint_status == "RollingBack":
            endpoint.endpoint_status = "InService"
        if name not in self._candidates:
            return
        candidate, config = self._candidates[name]
        if candidate.state == CREATING:
            return
        del self._candidates[name]
        if candidate.state == IN_SERVICE:
            self.runtime.put(candidate)
            endpoint.endpoint_status, endpoint.endpoint_config_name = "InService", config
            endpoint.failure_reason = None
            return
        candidate.close()
        updating = endpoint.endpoint_status == "Updating"
        endpoint.endpoint_status = "RollingBack" if updating else "Failed"
        endpoint.failure_reason = candidate.failure_reason


def _files(container: dict[str, Any]) -> dict[str, bytes]:
    """The files that the platform would place below /opt/ml/model."""
    source = container.get("ModelDataSource", {}).get("S3DataSource")
    if source is None:
        return {}
    bucket, _, prefix = source["S3Uri"].removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]]
    small = [key for key in keys if not key.endswith(".safetensors")]
    return {key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in small}


@contextlib.contextmanager
def platform(launch: Launch, patch: pytest.MonkeyPatch, limits: Limits = LIMITS) -> Iterator[Platform]:
    """A Platform during a with block."""
    made = Platform(launch, patch, limits)
    try:
        yield made
    finally:
        made.close()
