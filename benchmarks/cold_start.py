"""Cold start: seconds from the start of `serve` to /ping 200, by phase.

    python -m benchmarks.cold_start [--repeats 5] [--image IMAGE [--docker docker]]

Starts the server repeatedly with its default models: as a process, and with --image also as a container. Phases are
those of the `ready` log line; the rest of the time to /ping 200 is before loading (interpreter, gunicorn, and for an
image the container). The first start, which may read files from disk, is not counted. The last line of the output is
JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from benchmarks.harness.process import ServedProcess, free_port

_LIMIT_S = 300.0
_BEFORE, _TOTAL = "before loading", "start to /ping 200"


def of_process() -> dict[str, float]:
    """Seconds by phase of one start of `serve`."""
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "log"
        server = ServedProcess({"LOG_LEVEL": "INFO"}, log=log)
        try:
            total_s = _until_ready(server.url, server.began, lambda: server.process.poll() is None)
        finally:
            server.stop()
        return _phases(log.read_text(encoding="utf-8"), total_s)


def of_image(docker: str, image: str) -> dict[str, float]:
    """Seconds by phase of one `docker run IMAGE serve`, with a published port."""
    port = free_port()
    began = time.monotonic()
    run = [docker, "run", "--detach", "--publish", f"127.0.0.1:{port}:8080", image, "serve"]
    container = subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()
    try:
        total_s = _until_ready(f"http://127.0.0.1:{port}", began, lambda: True)
        log = subprocess.run([docker, "logs", container], capture_output=True, text=True, check=True)
        return _phases(log.stdout + log.stderr, total_s)
    finally:
        subprocess.run([docker, "rm", "--force", container], capture_output=True, check=False)


def _until_ready(url: str, began: float, alive: Callable[[], bool]) -> float:
    """Seconds from `began` until /ping returns 200. Raises RuntimeError if the server exits or takes too long."""
    while (passed_s := time.monotonic() - began) < _LIMIT_S:
        try:
            with urllib.request.urlopen(f"{url}/ping", timeout=5):
                return time.monotonic() - began
        except urllib.error.HTTPError as error:
            error.close()
        except OSError:
            if not alive():
                raise RuntimeError(f"the server exited after {passed_s:.1f} s, before it was ready") from None
        time.sleep(0.02)
    raise RuntimeError(f"/ping did not return 200 within {_LIMIT_S:.0f} s")


def _phases(log: str, total_s: float) -> dict[str, float]:
    """Seconds by phase from the `ready` log line, before loading, and in total."""
    ready = next(line for line in log.splitlines() if '"event": "ready"' in line)
    seconds: dict[str, float] = json.loads(ready[ready.index("{") :])["seconds"]
    loading_s = seconds.pop("total")
    return {_BEFORE: total_s - loading_s, **seconds, _TOTAL: total_s}


def measure(start: Callable[[], dict[str, float]], repeats: int, title: str) -> dict[str, dict[str, float]]:
    """Median, minimum and maximum seconds of each phase, over `repeats` starts after one warm-up."""
    start()
    runs = [start() for _ in tqdm(range(repeats), desc=title, unit="start")]
    figures = {}
    for phase in runs[0]:
        seconds = [run[phase] for run in runs]
        figures[phase] = {"median_s": statistics.median(seconds), "least_s": min(seconds), "most_s": max(seconds)}
    return figures


def show(title: str, figures: dict[str, dict[str, float]]) -> None:
    """Print the figures, without phases below 5 ms."""
    table = Table(title=title)
    table.add_column("phase")
    for column in ("median s", "min", "max"):
        table.add_column(column, justify="right")
    for phase, seconds in figures.items():
        if seconds["most_s"] >= 0.005:
            table.add_row(phase, *(f"{value:.2f}" for value in seconds.values()))
    Console(stderr=True).print(table)


def main() -> int:
    """Exit status 0; a failed start raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="starts of each kind (default: %(default)s)")
    parser.add_argument("--image", help="also measure this image")
    parser.add_argument("--docker", default="docker", help="the docker command (default: %(default)s)")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"repeats": arguments.repeats}
    figures["process"] = measure(of_process, arguments.repeats, "process")
    show(f"{arguments.repeats} starts of `serve` as a process", figures["process"])
    if arguments.image:
        figures["image"] = measure(lambda: of_image(arguments.docker, arguments.image), arguments.repeats, "image")
        show(f"{arguments.repeats} starts of the image {arguments.image}", figures["image"])
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
