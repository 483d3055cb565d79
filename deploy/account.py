"""AWS access: boto3 clients, their retries, and the translation of their errors to DeployError."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.errors import explained, is_absent

# Standard mode retries throttled calls with a growing back-off; AWS_MAX_ATTEMPTS is the number of attempts.
_CONFIG = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=60)


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One boto3 call: service, method and parameters."""

    service: str
    operation: str
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The call as JSON, for --dry-run."""
        return {"service": self.service, "operation": self.operation, "parameters": self.parameters}


class Account:
    """boto3 clients of one region, created on first use. Every error of boto3 is raised as DeployError."""

    def __init__(self, region: str | None = None) -> None:
        self._region = region
        self._session: Any = None
        self._clients: dict[str, Any] = {}

    @property
    def region(self) -> str:
        """The region that calls go to."""
        return str(self.client("sagemaker").meta.region_name)

    def client(self, service: str) -> Any:
        """boto3's client of `service`."""
        if service not in self._clients:
            try:
                self._session = self._session or boto3.Session(region_name=self._region)
                self._clients[service] = self._session.client(service, config=_CONFIG)
            except BotoCoreError as error:
                raise explained(error, service) from error
        return self._clients[service]

    def do(self, call: AwsCall) -> dict[str, Any]:
        """Make `call`; its response."""
        try:
            response: dict[str, Any] = getattr(self.client(call.service), call.operation)(**call.parameters)
        except (ClientError, BotoCoreError) as error:
            raise explained(error, call.operation) from error
        return response

    def find(self, call: AwsCall) -> dict[str, Any] | None:
        """Make `call`; its response, or None where the resource does not exist."""
        try:
            response: dict[str, Any] = getattr(self.client(call.service), call.operation)(**call.parameters)
        except ClientError as error:
            if is_absent(error):
                return None
            raise explained(error, call.operation) from error
        except BotoCoreError as error:
            raise explained(error, call.operation) from error
        return response

    def pages(self, call: AwsCall, member: str) -> Iterator[Any]:
        """The items of every page's `member`."""
        try:
            for page in self.client(call.service).get_paginator(call.operation).paginate(**call.parameters):
                yield from page.get(member, ())
        except (ClientError, BotoCoreError) as error:
            raise explained(error, call.operation) from error
