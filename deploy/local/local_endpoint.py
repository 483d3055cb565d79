"""A local container as an endpoint: its state follows from the status of /ping, as on the platform."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from http import HTTPStatus

import urllib3
from urllib3.exceptions import HTTPError

CREATING, IN_SERVICE, UNHEALTHY, FAILED = "Creating", "InService", "Unhealthy", "Failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """The platform's limits, in seconds and bytes; tests shorten them."""

    plain_s: float = 60.0
    stream_s: float = 480.0
    ping_s: float = 2.0
    ping_every_s: float = 1.0
    start_up_s: float = 480.0
    failed_pings: int = 3
    body_bytes: int = 25_000_000
    message_characters: int = 2048


def ping_status(url: str, timeout_s: float) -> int:
    """The status of GET /ping, or 0 where no answer came within `timeout_s`."""
    try:
        with urllib3.connection_from_url(url, retries=False, timeout=timeout_s) as pool:
            return pool.request("GET", "/ping").status
    except HTTPError:
        return 0


class LocalEndpoint:
    """One endpoint with one container: Creating, then InService or (no 200 within the start-up window) Failed.

    An endpoint in service is Unhealthy after several failed pings in a row, until one succeeds.
    """

    def __init__(self, name: str, container_url: str, limits: Limits) -> None:
        self.name = name
        self.container_url = container_url
        self.state = CREATING
        self.failure_reason: str | None = None
        self._limits = limits
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"ping {name}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> str:
        """The state once it is no longer Creating; Creating after `timeout_s`."""
        with self._changed:
            self._changed.wait_for(lambda: self.state != CREATING, timeout_s)
            return self.state

    def close(self) -> None:
        """Stop polling /ping."""
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        began, failed = time.monotonic(), 0
        while not self._closed.is_set():
            status = ping_status(self.container_url, self._limits.ping_s)
            if status == HTTPStatus.OK:
                failed = 0
                self._become(IN_SERVICE)
            elif self.state == CREATING and time.monotonic() - began > self._limits.start_up_s:
                self._become(
                    FAILED,
                    "The primary container for production variant AllTraffic did not pass the ping health check. "
                    f"The last answer was {status or 'none'}.",
                )
                return
            elif self.state == IN_SERVICE:
                failed += 1
                if failed >= self._limits.failed_pings:
                    self._become(UNHEALTHY)
            self._closed.wait(self._limits.ping_every_s)

    def _become(self, state: str, reason: str | None = None) -> None:
        with self._changed:
            self.state, self.failure_reason = state, reason
            self._changed.notify_all()
