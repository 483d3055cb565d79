"""Operational complexity of each design, and the effect of an LLM that fails to load.

    python -m benchmarks.operation [--output build/operation.json]

Counts the processes and listening ports of a running monolith and of running microservices, and the settings and lines
of Python that only the microservices need; then starts each with corrupt LLM weights and requests passages, which need
no LLM. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.harness.host import describe, machine_line
from benchmarks.harness.process import ROOT, ServedProcess, free_port
from benchmarks.harness.variants import start

SCHEMA = "benchmarks.operation/1"
NAMES = ("monolith", "microservices")
# The code and the settings that only the microservices use.
_FOLDERS = ("microservices", "rag/remote")
_MODULES = ("rag/admission/admitted_generator.py", "rag/engine/chat_tokenizer.py")
_SETTINGS = ("VECTOR_URL", "LLM_URL", "VECTOR_PORT", "LLM_PORT", "HOP_TIMEOUT_S")
_LISTENING = "0A"
_BROKEN_S = 30.0


def measure() -> dict[str, Any]:
    """All figures, as a JSON document."""
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(),
        "only_microservices": {"lines": _lines(), "settings": len(_SETTINGS)},
    }
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        for name in NAMES:
            with ExitStack() as stack:
                processes = start(stack, name, logs / name).processes()
                result[name] = {"processes": len(processes), "ports": len(_ports(processes))}
            result[name]["damaged_llm"] = _with_damaged_llm(name, logs)
    return result


def _lines() -> int:
    """Non-empty lines of the code that only the microservices use."""
    files = [path for folder in _FOLDERS for path in (ROOT / folder).glob("*.py")]
    files += [ROOT / module for module in _MODULES]
    return sum(bool(line.strip()) for file in files for line in file.read_text(encoding="utf-8").splitlines())


def _ports(processes: dict[int, str]) -> set[int]:
    """TCP ports on which the processes listen."""
    sockets: set[str] = set()
    for pid in processes:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed in the meantime
                sockets.add(os.readlink(entry))  # noqa: PTH115 - "socket:[1234]" is not a path
    rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if row[3] == _LISTENING and f"socket:[{row[9]}]" in sockets}


def _with_damaged_llm(name: str, folder: Path) -> dict[str, Any]:
    """Retrieval with corrupt LLM weights: seconds until the first answer, or the last error code."""
    model = folder / f"{name}-llm"
    shutil.copytree(ROOT / "models" / "rag-tiny", model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:4096])
    settings = {"LLM": str(model), "METRICS_EMF_S": "0", "LOG_LEVEL": "ERROR"}
    if name == "microservices":
        settings |= {"VARIANT": name, "VECTOR_PORT": str(free_port()), "LLM_PORT": str(free_port())}
    server = ServedProcess(settings, log=folder / f"{name}-damaged")
    found: dict[str, Any] = {"retrieves_after_s": None, "code": ""}
    try:
        while time.monotonic() - server.began < _BROKEN_S and found["retrieves_after_s"] is None:
            with contextlib.suppress(httpx.HTTPError):
                answer = httpx.post(f"{server.url}/invocations", json={"query": "Brasil", "mode": "retrieve"})
                if answer.status_code == 200:
                    found |= {"retrieves_after_s": time.monotonic() - server.began, "code": ""}
                else:
                    found["code"] = f"{answer.status_code} {answer.json()['error']['code']}"
            time.sleep(0.1)
        found["ping"] = server.status()
    finally:
        server.stop()
    return found


def show(result: dict[str, Any]) -> None:
    """Print the figures, one row each."""
    table = Table("figure", *NAMES, title=machine_line(result["machine"]))
    for figure in ("processes", "ports"):
        table.add_row(figure, *(str(result[name][figure]) for name in NAMES))
    for figure in ("retrieves_after_s", "code", "ping"):
        table.add_row(f"damaged LLM: {figure}", *(str(result[name]["damaged_llm"][figure]) for name in NAMES))
    for figure, value in result["only_microservices"].items():
        table.add_row(f"{figure} of the microservices alone", "0", str(value))
    Console(stderr=True).print(table)


def main() -> int:
    """Exit status 0; a server that fails to start raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "operation.json")
    arguments = parser.parse_args()
    result = measure()
    show(result)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
