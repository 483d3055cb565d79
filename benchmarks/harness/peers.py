"""The servers that throughput.py compares: how each is started, and how its response is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from benchmarks.harness.process import ROOT, ServedProcess, ServerProcess
from benchmarks.harness.smol_checkpoint import word

_SERVE = "from transformers.cli.transformers import main; main()"


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """A prompt of exactly these tokens, and the number of tokens to generate."""

    prompt_ids: tuple[int, ...]
    new_tokens: int

    @property
    def text(self) -> str:
        """The prompt as text: one word per token."""
        return " ".join(map(word, self.prompt_ids))


@dataclass(frozen=True, slots=True)
class PeerReply:
    """Seconds from the request to each piece of text, and the server's token counts."""

    arrivals_s: tuple[float, ...]
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure. A `slow` one is measured once per workload, with one client."""

    name: str
    dtype: str
    start: Callable[[Path], ServerProcess]
    """Starts the server; takes the log's path."""
    ask: Callable[[httpx.Client, PeerRequest], PeerReply]
    """Sends a request; takes a client with the server's base URL. Raises httpx.HTTPError if it was refused."""
    slow: bool = False


def ours(model: Path, backend: str, dtype: str, clients: int, context_tokens: int) -> Peer:
    """This project's server, streaming in the generate mode, which like the other servers does no retrieval."""
    settings = {
        "LLM": str(model),
        "DTYPE": dtype,
        "CONTEXT": str(context_tokens),
        "CONCURRENCY": str(clients),
        "LOG_LEVEL": "WARNING",
        "STREAM_DEADLINE_S": "3600",
        "BACKEND": backend,
    }
    return Peer(f"this server, {backend}", dtype, lambda log: ServedProcess(settings, log=log), _ask_ours)


def locked(model: Path, dtype: str, *, slow: bool) -> Peer:
    """Flask and `generate` under a lock; dtype `auto`, the checkpoint's, is how it is usually written."""
    command = [sys.executable, "-m", "benchmarks.harness.naive_server", str(model), "{port}", dtype]
    name = f"Flask + lock, {'as written' if dtype == 'auto' else dtype}"
    stored = "bfloat16" if dtype == "auto" else dtype
    return Peer(name, stored, lambda log: ServerProcess(command, log=log), _ask_locked, slow)


def transformers_serve(model: Path, dtype: str, python: Path) -> Peer | str:
    """`transformers serve` with continuous batching, in the environment of `python`; or how to install it."""
    found = subprocess.run([python, "-c", "import fastapi, uvicorn, openai"], capture_output=True, check=False)
    if found.returncode:
        return f"transformers serve: run `{python} -m pip install 'transformers[serving]==5.23.0'`"
    command = [str(python), "-c", _SERVE, "serve", str(model), "--continuous-batching", "--dtype", dtype]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--log-level", "error"]

    def ask(client: httpx.Client, request: PeerRequest) -> PeerReply:
        body = {"model": str(model), "prompt": request.text, "max_tokens": request.new_tokens, "temperature": 0.0}
        return _read_stream(client, "/v1/completions", body | {"stream": True}, _openai_event)

    return Peer("transformers serve", dtype, lambda log: ServerProcess(command, ready="/health", log=log), ask)


def llama_server(model: Path, python: Path, binary: str, clients: int, context_tokens: int) -> Peer | str:
    """llama.cpp's server with the same weights in float16; or how to install it."""
    program = shutil.which(binary)
    if program is None:
        return (
            f"llama.cpp: no {binary}; unpack "
            "`pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36`, build "
            "vendor/llama.cpp (cmake -B build -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF; "
            "cmake --build build --target llama-server)"
        )
    weights = model.with_suffix(".gguf")
    if not weights.exists():
        written = subprocess.run(
            [python, "-m", "benchmarks.harness.smol_checkpoint", model, weights],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if written.returncode:
            return f"llama.cpp: its weights can't be written; run `{python} -m pip install gguf safetensors`"
    cores = len(os.sched_getaffinity(0))
    command = [program, "-m", str(weights), "--host", "127.0.0.1", "--port", "{port}", "-t", str(cores)]
    command += ["-np", str(clients), "-c", str(clients * context_tokens), "--no-warmup"]
    return Peer("llama.cpp", "float16", lambda log: ServerProcess(command, ready="/health", log=log), _ask_llama)


def _ask_ours(client: httpx.Client, request: PeerRequest) -> PeerReply:
    body = {"query": request.text, "mode": "generate", "max_new_tokens": request.new_tokens, "stream": True}
    return _read_stream(client, "/invocations", body, _our_event)


def _ask_locked(client: httpx.Client, request: PeerRequest) -> PeerReply:
    began = time.perf_counter()
    response = client.post("/invocations", json={"query": request.text, "max_new_tokens": request.new_tokens})
    response.raise_for_status()
    usage = response.json()["usage"]
    return PeerReply((time.perf_counter() - began,), usage["prompt_tokens"], usage["completion_tokens"])


def _ask_llama(client: httpx.Client, request: PeerRequest) -> PeerReply:
    body = {"prompt": list(request.prompt_ids), "n_predict": request.new_tokens, "temperature": 0.0, "stream": True}
    return _read_stream(client, "/completion", body | {"cache_prompt": False}, _llama_event)


Event = tuple[str, Sequence[int] | None]  # text, and (prompt_tokens, new_tokens) if the event has the usage


def _read_stream(client: httpx.Client, path: str, body: dict[str, Any], read: Callable[[Any], Event]) -> PeerReply:
    """Request a stream of server-sent events and measure the arrival of each piece of text."""
    arrivals: list[float] = []
    usage: Sequence[int] = (0, 0)
    began = time.perf_counter()
    with client.stream("POST", path, json=body) as response:
        response.raise_for_status()
        for event in _events(response):
            text, counted = read(event)
            if text:
                arrivals.append(time.perf_counter() - began)
            usage = counted or usage
    if not arrivals:
        raise httpx.ReadError(f"{path} sent no text")
    return PeerReply(tuple(arrivals), *usage)


def _events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


def _our_event(event: Any) -> Event:
    if event["type"] == "error":
        raise httpx.ReadError(event["error"]["message"])
    usage = event.get("usage")
    counted = usage and (usage["prompt_tokens"], usage["completion_tokens"])
    return (event["text"] if event["type"] == "text" else ""), counted


def _openai_event(event: Any) -> Event:
    if "error" in event:
        raise httpx.ReadError(str(event["error"]))
    usage = event.get("usage")
    return event["choices"][0]["text"], usage and (usage["prompt_tokens"], usage["completion_tokens"])


def _llama_event(event: Any) -> Event:
    counted = (event["tokens_evaluated"], event["tokens_predicted"]) if event.get("stop") else None
    return event["content"], counted
