"""A server under watch: its plan, its request log, its memory and its ledger, read from outside."""

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


class Watched:
    """`serve` with its log read back and its worker's resident memory sampled 20 times a second."""

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
        """The line that compares the plan with what loading took."""
        return next(event for event in self._events() if event.get("event") == "plan")

    def requests(self) -> list[dict[str, Any]]:
        """The log line of every request so far."""
        return [event for event in self._events() if event.get("event") == "request"]

    def resident_bytes(self) -> int:
        """The worker's resident memory now."""
        return self._status_bytes("VmRSS")

    def highest_bytes(self) -> int:
        """The most that the worker ever had resident, its start included."""
        return self._status_bytes("VmHWM")

    def peak_bytes(self) -> int:
        """The most that was sampled since the last call, and from now on anew."""
        samples, self._samples = self._samples, []
        return max([*samples, self.resident_bytes()])

    def metric(self, name: str) -> float:
        """A gauge or counter by its whole name, labels included."""
        with urllib.request.urlopen(self._metrics, timeout=10) as response:
            lines = response.read().decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name)

    def stop(self) -> None:
        """End the sampling."""
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
            except (OSError, StopIteration):  # it has ended
                return


@contextmanager
def watched(settings: Mapping[str, str] | None = None) -> Iterator[Watched]:
    """A server that answers, for the length of a with block."""
    with tempfile.TemporaryDirectory() as folder:
        log, port = Path(folder) / "log", free_port()
        server = ServedProcess({"METRICS_PORT": str(port), **(settings or {})}, log=log)
        try:
            server.wait_until_ready()
            watch = Watched(server, log, port)
            yield watch
            watch.stop()
        finally:
            server.stop()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(child) for child in text.split()]
