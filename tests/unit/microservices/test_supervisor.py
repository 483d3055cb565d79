"""The supervisor, over small processes that answer /health or die as their arguments say."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

from benchmarks.harness.process import free_port
from microservices.supervisor import Child, ServiceSpec, Supervisor, service_specs

_SCRIPT = """
import http.server, os, signal, sys
port, status, code, value, trace = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"error":{"code":"%s","message":"m","value":"%s"}}' % (code.encode(), value.encode())
        self.send_response(status); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
def end(*_):
    open(trace, "a").write(f"{port}\\n"); os._exit(0)
signal.signal(signal.SIGTERM, end)
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


def spec(trace: Path, *, status: int = 200, code: str = "", value: str = "") -> ServiceSpec:
    port = free_port()
    command = [sys.executable, "-S", "-c", _SCRIPT, str(port), str(status), code, value, str(trace)]
    return ServiceSpec("llm", command, os.environ, f"http://127.0.0.1:{port}")


def pid_of(child: Child) -> int:
    assert child._process is not None
    return child._process.pid


def tick_until(child: Child, condition: Callable[[], bool], limit_s: float = 10) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, child.phase
        child.tick(time.monotonic())
        time.sleep(0.01)


def test_a_service_that_is_killed_is_restarted_and_becomes_ready(tmp_path: Path) -> None:
    child = Child(spec(tmp_path / "trace"))
    tick_until(child, lambda: child.phase == "ready")
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    tick_until(child, lambda: child.phase != "ready")
    tick_until(child, lambda: child.phase == "ready")
    assert pid_of(child) != first
    assert child.restarts == 1
    child.stop(5)


def test_a_service_that_keeps_dying_is_restarted_with_a_growing_back_off() -> None:
    now_s = 0.0
    starts: list[float] = []
    child = Child(ServiceSpec("llm", [sys.executable, "-S", "-c", "pass"], os.environ, "http://127.0.0.1:9"))
    while len(starts) < 4:
        before = child.restarts
        child.tick(now_s)
        if child.restarts > before:
            starts.append(now_s)
            process = child._process
            assert process is not None
            process.wait(10)
        else:
            now_s += 0.01
    gaps = [round(later - earlier, 1) for earlier, later in pairwise(starts)]
    assert gaps == [0.2, 0.4, 0.8]
    child.stop(5)


def test_a_service_whose_loading_failed_is_not_restarted(tmp_path: Path) -> None:
    child = Child(spec(tmp_path / "trace", status=503, code="failed", value="failed"))
    tick_until(child, lambda: child.phase.startswith("failed"))
    pid = pid_of(child)
    for _ in range(5):
        child.tick(time.monotonic())
    assert pid_of(child) == pid
    child.stop(5)


def test_a_service_whose_engine_has_died_for_good_is_restarted(tmp_path: Path) -> None:
    child = Child(spec(tmp_path / "trace", status=503, code="failed", value="dead"))
    tick_until(child, lambda: child.restarts == 1)
    child.stop(5)


def test_at_shutdown_the_orchestrator_ends_before_the_services(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    specs = [spec(trace) for _ in range(3)]
    supervisor = Supervisor(specs)

    def stop_when_ready() -> None:
        while not all(child.phase == "ready" for child in supervisor.children):
            time.sleep(0.01)
        supervisor._stopping.set()  # as the handler of SIGTERM does

    stopper = threading.Thread(target=stop_when_ready)
    stopper.start()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        assert supervisor.run() == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    stopper.join()
    ended = trace.read_text().split()
    assert len(ended) == 3
    assert specs[0].url.endswith(ended[0])


def test_only_services_without_a_url_are_started() -> None:
    at = partial(service_specs, port=8080, vector_port=5001, llm_port=5002)
    here = at({"DEVICE": "cuda"}, vector_url=None, llm_url=None)
    assert [one.name for one in here] == ["orchestrator", "vector", "llm"]
    assert here[0].environment["LLM_URL"] == "http://127.0.0.1:5002"
    assert (here[1].environment["DEVICE"], here[2].environment["DEVICE"]) == ("cpu", "cuda")
    assert all(one.environment["HOST"] == "127.0.0.1" for one in here[1:])
    there = at({}, vector_url=None, llm_url="http://gpu:5002")
    assert [one.name for one in there] == ["orchestrator", "vector"]
    assert there[0].environment["LLM_URL"] == "http://gpu:5002"
