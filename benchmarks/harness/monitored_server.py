"""A server with monitoring from outside: plan, request log, memory and metrics."""

from __future__ import annotations

import json
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.process import ServedProcess, free_port

_EVERY_S = 0.05


class MonitoredServer:
    """`serve` with its log, and its worker's resident memory sampled 20 times a second."""

    def __init__(self, server: ServedProcess, log: Path, metrics_port: int) -> None:
        self.url = server.url
        self._log = log
        self._metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        self._over = threading.Event()
        self._samples: list[int] = []
        (self._worker,) = _children(server.process.pid)
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    @property
    def plan(self) -> dict[str, Any]:
        """The log line that compares planned with measured memory."""
        return next(event for event in self._events() if event.get("event") == "plan")

    def requests(self) -> list[dict[str, Any]]:
        """The log lines of all requests so far."""
        return [event for event in self._events() if event.get("event") == "request"]

    def resident_bytes(self) -> int:
        """The worker's current resident memory."""
        return self._status_bytes("VmRSS")

    def highest_bytes(self) -> int:
        """The worker's peak resident memory since its start."""
        return self._status_bytes("VmHWM")

    def peak_bytes(self) -> int:
        """The highest sample since the last call of this method."""
        samples, self._samples = self._samples, []
        return max([*samples, self.resident_bytes()])

    def metric(self, name: str) -> float:
        """The value of a gauge or counter, by its full name with labels."""
        with urllib.request.urlopen(self._metrics, timeout=10) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name)

    def stop(self) -> None:
        """Stop sampling."""
        self._over.set()
        self._sampler.join()

    def _status_bytes(self, field: str) -> int:
        lines = Path(f"/proc/{self._worker}/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))

    def _events(self) -> Iterator[dict[str, Any]]:
        for line in self._log.read_text(encoding="utf-8").splitlines():
            start = line.find("{")
            if start >= 0:
                try:
                    event = json.loads(line[start:])
                except ValueError:
                    continue
                yield event

    def _sample(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                self._samples.append(self.resident_bytes())
            except (OSError, StopIteration):  # the worker has exited
                return


@contextmanager
def monitored_server(settings: Mapping[str, str] | None = None) -> Iterator[MonitoredServer]:
    """A ready server, stopped at the end of the with block."""
    with tempfile.TemporaryDirectory() as folder:
        log, port = Path(folder) / "log", free_port()
        server = ServedProcess({"METRICS_PORT": str(port), **(settings or {})}, log=log)
        try:
            server.wait_until_ready()
            monitored = MonitoredServer(server, log, port)
            yield monitored
            monitored.stop()
        finally:
            server.stop()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in text.split()]
