"""The variants side by side: their processes, what those hold and compute, and how each is harmed."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.process import ROOT, ServedProcess, ServerProcess, free_port

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

# A notebook's settings: few sessions, int8 weights.
EDGE = {"CONCURRENCY": "4", "WEIGHTS": "int8", "BACKEND": "openvino"}


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process: resident bytes, and its share where pages are shared."""

    rss_bytes: int
    pss_bytes: int


@dataclass
class Variant:
    """A variant that answers at `url`, and the processes of which it is made."""

    name: str
    url: str
    boot_s: float
    servers: list[ServerProcess] = field(repr=False)

    def processes(self) -> dict[int, str]:
        """Every process of the variant, with the role that it plays."""
        found: dict[int, str] = {}
        for server in self.servers:
            _walk(server.process.pid, "", found)
        return found

    def worker(self, service: str) -> int:
        """The gunicorn worker of one service; in a monolith, of everything."""
        workers = [
            pid for pid, role in self.processes().items() if role in (service, "monolith") and not _children(pid)
        ]
        return workers[-1]

    def memory(self) -> dict[str, Memory]:
        """By role: the sums over its processes."""
        totals: dict[str, Memory] = {}
        for pid, role in self.processes().items():
            part = totals.get(role, Memory(0, 0))
            sizes = _rollup(pid)
            totals[role] = Memory(part.rss_bytes + sizes["Rss"], part.pss_bytes + sizes["Pss"])
        return totals

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have used so far."""
        return sum(_cpu_s(pid) for pid in self.processes())


def start(stack: ExitStack, name: str, log: Path, settings: Mapping[str, str] | None = None) -> Variant:
    """The variant called monolith, edge or microservices, once it answers; stopped when `stack` closes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {"METRICS_EMF_S": "0", "LOG_LEVEL": "WARNING", **(EDGE if name == "edge" else {}), **(settings or {})}
    if name == "microservices":
        own |= {"VARIANT": name, "VECTOR_PORT": str(free_port()), "LLM_PORT": str(free_port())}
    server = ServedProcess(own, log=log)
    boot_s = _ready(stack, server)
    return Variant(name, server.url, boot_s, [server])


def start_scaled(stack: ExitStack, llm_services: int, logs: Path) -> Variant:
    """One orchestrator and one vector service over so many LLM services of one thread each."""
    logs.mkdir(parents=True, exist_ok=True)
    common = {"METRICS_EMF_S": "0", "LOG_LEVEL": "WARNING", "THREADS": "1"}

    def service(variant: str, port: int, more: Mapping[str, str] | None = None) -> ServerProcess:
        command = [sys.executable, str(ROOT / "serve"), "--variant", variant]
        settings = {**common, f"{variant.upper()}_PORT": str(port), **(more or {})}
        return ServerProcess(command, settings, log=logs / f"{variant}-{port}")

    vector_port, llm_ports = free_port(), [free_port() for _ in range(llm_services)]
    behind = [service("vector", vector_port), *(service("llm", port) for port in llm_ports)]
    urls = {
        "VECTOR_URL": f"http://127.0.0.1:{vector_port}",
        "LLM_URL": ",".join(f"http://127.0.0.1:{port}" for port in llm_ports),
    }
    for server in behind:
        stack.callback(server.stop)
    command = [sys.executable, str(ROOT / "serve"), "--variant", "orchestrator"]
    front = ServerProcess(command, {**common, **urls}, log=logs / "orchestrator")
    return Variant(f"{llm_services} LLM services", front.url, _ready(stack, front), [front, *behind])


def _ready(stack: ExitStack, server: ServerProcess) -> float:
    stack.callback(server.stop)
    return server.wait_until_ready(300)


def _walk(pid: int, role: str, found: dict[int, str]) -> None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        children = _children(pid)
    except OSError:  # it has just ended
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
    """Whether the process runs another command than its parent: a service, not a worker of one."""
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
