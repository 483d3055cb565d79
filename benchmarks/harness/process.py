"""Starts a server as a separate process, waits until it is ready, and stops it. Used by benchmarks and tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class ServerProcess:
    """A server on a free loopback port, passed as `{port}` in `command` and in the variable PORT."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        ready: str = "/ping",
        log: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.began = time.monotonic()
        self._name = " ".join(command)
        self._ready = ready
        self._log = log.open("wb") if log else None
        self.process = subprocess.Popen(
            [part.replace("{port}", str(self.port)) for part in command],
            cwd=ROOT,
            env={**os.environ, "HOST": "127.0.0.1", "PORT": str(self.port), **(environment or {})},
            stdout=self._log,
            stderr=self._log,
        )

    def status(self) -> int:
        """The HTTP status of the readiness path, or 0 if the port is not open yet."""
        try:
            with urllib.request.urlopen(f"{self.url}{self._ready}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return int(error.code)
        except OSError:
            return 0

    def wait_until_ready(self, limit_s: float = 120) -> float:
        """Seconds from the start to status 200. Raises RuntimeError if the server exits or takes too long."""
        while time.monotonic() - self.began < limit_s:
            if self.status() == 200:
                return time.monotonic() - self.began
            if self.process.poll() is not None:
                raise RuntimeError(f"{self._name} exited with status {self.process.returncode} before it was ready")
            time.sleep(0.05)
        raise RuntimeError(f"{self._name}: {self._ready} did not return 200 within {limit_s:.0f} s")

    def stop(self) -> int:
        """Send SIGTERM, after 40 s SIGKILL; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            if self._log:
                self._log.close()


class ServedProcess(ServerProcess):
    """This project's server with these settings."""

    def __init__(self, settings: Mapping[str, str], *, log: Path | None = None) -> None:
        super().__init__([sys.executable, str(ROOT / "serve")], settings, log=log)


@contextlib.contextmanager
def running(process: ServerProcess, limit_s: float = 120) -> Iterator[ServerProcess]:
    """Wait until the server is ready, and stop it at the end of the with block."""
    try:
        process.wait_until_ready(limit_s)
        yield process
    finally:
        process.stop()


def served(
    settings: Mapping[str, str] | None = None, *, log: Path | None = None
) -> contextlib.AbstractContextManager[ServerProcess]:
    """This project's server, ready, and stopped at the end of the with block."""
    return running(ServedProcess(settings or {}, log=log))


def free_port() -> int:
    """A loopback port that is currently unused."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
