"""The way to AWS: one place for clients, their retries, and what their errors come to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from deploy.errors import explained, is_absent

# Standard mode retries throttling with growing pauses; AWS_MAX_ATTEMPTS says how often.
_CONFIG = Config(retries={"mode": "standard"}, connect_timeout=10, read_timeout=60)


@dataclass(frozen=True, slots=True)
class Call:
    """One call as it would be made: boto3's service, its method, and its parameters."""

    service: str
    operation: str
    parameters: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """For --dry-run."""
        return {"service": self.service, "operation": self.operation, "parameters": self.parameters}


class Account:
    """boto3 clients of one region, made when first used. Raises DeployError only, whatever boto3 raises."""

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

    def do(self, call: Call) -> dict[str, Any]:
        """Make `call`; its response."""
        try:
            response: dict[str, Any] = getattr(self.client(call.service), call.operation)(**call.parameters)
        except (ClientError, BotoCoreError) as error:
            raise explained(error, call.operation) from error
        return response

    def find(self, call: Call) -> dict[str, Any] | None:
        """Make `call`; its response, or None where what it names is not there."""
        try:
            response: dict[str, Any] = getattr(self.client(call.service), call.operation)(**call.parameters)
        except ClientError as error:
            if is_absent(error):
                return None
            raise explained(error, call.operation) from error
        except BotoCoreError as error:
            raise explained(error, call.operation) from error
        return response

    def pages(self, call: Call, member: str) -> Iterator[Any]:
        """The items of every page's `member`."""
        try:
            for page in self.client(call.service).get_paginator(call.operation).paginate(**call.parameters):
                yield from page.get(member, ())
        except (ClientError, BotoCoreError) as error:
            raise explained(error, call.operation) from error
