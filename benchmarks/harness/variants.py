"""Starts the variants, and measures memory and CPU time of their processes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.process import ROOT, ServedProcess, ServerProcess, free_port

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# For a laptop: few sessions, int8 weights.
EDGE = {"CONCURRENCY": "4", "WEIGHTS": "int8", "BACKEND": "openvino"}


@dataclass
class RunningVariant:
    """A running variant: its URL, boot time and server processes."""

    name: str
    url: str
    boot_s: float
    servers: list[ServerProcess] = field(repr=False)

    def processes(self) -> dict[int, str]:
        """Every process of the variant, with its role."""
        found: dict[int, str] = {}
        for server in self.servers:
            _walk(server.process.pid, "", found)
        return found

    def worker(self, service: str) -> int:
        """The gunicorn worker of a service; in a monolith, its only worker."""
        workers = [
            pid for pid, role in self.processes().items() if role in (service, "monolith") and not _children(pid)
        ]
        return workers[-1]

    def memory(self) -> dict[str, Any]:
        """Resident bytes (RSS) and the proportional share of shared pages (PSS): by role, and in total."""
        roles: dict[str, dict[str, int]] = {}
        for pid, role in self.processes().items():
            sums = roles.setdefault(role, {"rss_bytes": 0, "pss_bytes": 0})
            sizes = _rollup(pid)
            sums["rss_bytes"] += sizes["Rss"]
            sums["pss_bytes"] += sizes["Pss"]
        totals = {name: sum(sums[name] for sums in roles.values()) for name in ("rss_bytes", "pss_bytes")}
        return {"processes": roles, **totals}

    def cpu_s(self) -> float:
        """CPU seconds used by its processes so far."""
        return sum(_cpu_s(pid) for pid in self.processes())


def start(stack: ExitStack, name: str, log: Path, settings: Mapping[str, str] | None = None) -> RunningVariant:
    """The variant `name` (monolith, edge or microservices), started and ready; stopped when `stack` closes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"METRICS_EMF_S": "0", "LOG_LEVEL": "WARNING", **(EDGE if name == "edge" else {}), **(settings or {})}
    if name == "microservices":
        environment |= {"VARIANT": name, "VECTOR_PORT": str(free_port()), "LLM_PORT": str(free_port())}
    server = ServedProcess(environment, log=log)
    boot_s = _ready(stack, server)
    return RunningVariant(name, server.url, boot_s, [server])


def start_scaled(stack: ExitStack, llm_services: int, logs: Path) -> RunningVariant:
    """One orchestrator and one vector service with `llm_services` LLM services of one thread each."""
    logs.mkdir(parents=True, exist_ok=True)
    common = {"METRICS_EMF_S": "0", "LOG_LEVEL": "WARNING", "THREADS": "1"}

    def service(variant: str, port: int, more: Mapping[str, str] | None = None) -> ServerProcess:
        command = [sys.executable, str(ROOT / "serve"), "--variant", variant]
        settings = {**common, f"{variant.upper()}_PORT": str(port), **(more or {})}
        return ServerProcess(command, settings, log=logs / f"{variant}-{port}")

    vector_port, llm_ports = free_port(), [free_port() for _ in range(llm_services)]
    backends = [service("vector", vector_port), *(service("llm", port) for port in llm_ports)]
    urls = {
        "VECTOR_URL": f"http://127.0.0.1:{vector_port}",
        "LLM_URL": ",".join(f"http://127.0.0.1:{port}" for port in llm_ports),
    }
    for server in backends:
        stack.callback(server.stop)
    command = [sys.executable, str(ROOT / "serve"), "--variant", "orchestrator"]
    orchestrator = ServerProcess(command, {**common, **urls}, log=logs / "orchestrator")
    boot_s = _ready(stack, orchestrator)
    return RunningVariant(f"{llm_services} LLM services", orchestrator.url, boot_s, [orchestrator, *backends])


def _ready(stack: ExitStack, server: ServerProcess) -> float:
    stack.callback(server.stop)
    return server.wait_until_ready(300)


def _walk(pid: int, role: str, found: dict[int, str]) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        children = _children(pid)
    except OSError:  # the process has just ended
        return
    named = re.search(r"--variant\0(\w+)", "\0".join(command))
    role = named[1] if named else role or "monolith"
    if any(_is_service(child) for child in children):
        role = "supervisor"
    found[pid] = role
    for child in children:
        _walk(child, "" if role == "supervisor" else role, found)


def _is_service(pid: int) -> bool:
    try:
        return b"--variant" in Path(f"/proc/{pid}/cmdline").read_bytes() and _parent_differs(pid)
    except OSError:
        return False


def _parent_differs(pid: int) -> bool:
    """Whether the process runs another command than its parent: then it is a service, not a service's worker."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    parent = next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:"))
    return Path(f"/proc/{pid}/cmdline").read_bytes() != Path(f"/proc/{parent}/cmdline").read_bytes()


def _children(pid: int) -> Sequence[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _rollup(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
