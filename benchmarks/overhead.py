"""The latency that HTTP and the pipeline add to the engine: for the first token, and for every further token.

    python -m benchmarks.overhead [--backend torch] [--prompt-words 100] [--new-tokens 48] [--repeats 100]

One client, the default model. The engine runs in this process, without text or HTTP; the server, a separate process,
streams in the generate mode, which neither embeds nor retrieves, so both compute the same tokens. They alternate, each
request with a random prompt. Both are timed to the first token with visible text: the space before the first word is
not sent. The client is a plain socket, to exclude the overhead of a client library. The answer mode, which also embeds
the question and searches, is measured as well, on other questions, and is not comparable per token. The last line of
the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks.harness import host
from benchmarks.harness.bootstrap import percentile
from benchmarks.harness.local_engine import generate
from benchmarks.harness.process import served
from benchmarks.harness.questions import QUESTIONS, question_texts
from rag.backends.choice import BackendName
from rag.checkpoint import resolve_model
from rag.engine.detokenizer import TextStream
from rag.engine.loading import EngineConfig, load_generator
from rag.interfaces import Message, Sampling
from rag.settings import Settings

Figures = dict[str, dict[str, float]]


def first_visible(tokens: list[int], tokenizer: Tokenizer) -> int:
    """The index of the first token with visible text."""
    text = TextStream(tokenizer)
    return next(place for place, token in enumerate(tokens) if text.push(token))


def over_http(client: socket.socket, body: dict[str, Any]) -> tuple[list[float], int]:
    """Seconds from the request to each text event, and the server's token count."""
    content = json.dumps(body).encode()
    head = (
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/jsonlines\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    began = time.perf_counter()
    client.sendall(head.encode() + content)
    received, arrived = bytearray(), []  # arrived: (total bytes, seconds) after each read
    while not received.endswith(b"\r\n0\r\n\r\n"):
        piece = client.recv(65536)
        arrived.append((len(received) + len(piece), time.perf_counter() - began))
        received += piece
        if not piece:
            raise RuntimeError(f"the server closed the connection after {bytes(received[:300])!r}")
    arrivals: list[float] = []
    counted, end = None, 0
    for line in bytes(received).splitlines(keepends=True):
        end += len(line)
        if not line.startswith(b"{"):  # a header, or a chunk size
            continue
        event = json.loads(line)
        if event["type"] == "text":
            arrivals.append(next(seconds for size, seconds in arrived if size >= end))
        elif event["type"] == "end":
            counted = int(event["usage"]["completion_tokens"])
    if counted is None:
        raise RuntimeError(f"no end event in {bytes(received[:300])!r}")
    return arrivals, counted


def seconds_per_token(arrivals: list[float], tokens: int) -> float:
    """Mean seconds per token after the first event; an event may contain several tokens."""
    return (arrivals[-1] - arrivals[0]) / max(1, tokens - 1)


def measure(backend: BackendName, prompt_words: int, new_tokens: int, repeats: int) -> tuple[Figures, dict[str, float]]:
    """Percentiles of the seconds to the first token and per token, by interface; the median overhead of HTTP."""
    settings = Settings()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    blocks = 1 if backend == "torch" else -(-(settings.context or 0) // 32)  # for one session
    generator = load_generator(
        EngineConfig(
            settings.llm,
            num_blocks=blocks,
            max_waiting=1,
            context_tokens=settings.context,
            dtype=settings.dtype,
            backend=backend,
            threads=threads,
        )
    )
    tokenizer = Tokenizer.from_file(str(resolve_model(settings.llm) / "tokenizer.json"))
    words = [word for line in QUESTIONS.read_text(encoding="utf-8").split() if (word := line.strip('",:{}[]?'))]
    questions = question_texts()
    rng = random.Random(1)
    seconds: dict[str, list[tuple[float, float]]] = {"engine": [], "HTTP, generate": [], "HTTP, answer": []}
    with (
        tempfile.TemporaryDirectory() as logs,
        served({"LOG_LEVEL": "WARNING", "BACKEND": backend}, log=Path(logs) / "log") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as client,
    ):
        for repeat in tqdm(range(repeats + 2), unit="round"):
            prompt = " ".join(rng.choices(words, k=prompt_words))
            ids = generator.encode([Message("user", prompt)])
            generation = generate(generator.engine, ids, Sampling(new_tokens))
            visible = generation.arrivals_s[first_visible(generation.tokens, tokenizer) :]
            round_s = {"engine": (visible[0], seconds_per_token(visible, len(visible)))}
            options = {"max_new_tokens": new_tokens, "stream": True}
            for name, body in (
                ("HTTP, generate", {"query": prompt, "mode": "generate", **options}),
                ("HTTP, answer", {"query": rng.choice(questions), **options}),
            ):
                arrivals, counted = over_http(client, body)
                if arrivals:
                    round_s[name] = (arrivals[0], seconds_per_token(arrivals, counted))
            for name, measured_s in round_s.items():
                if repeat >= 2:  # the first rounds are warm-up
                    seconds[name].append(measured_s)
    generator.close()
    figures = {
        name: {
            "first_p50_s": statistics.median(first for first, _ in taken),
            "first_p95_s": percentile([first for first, _ in taken], 0.95),
            "token_p50_s": statistics.median(token for _, token in taken),
            "token_p95_s": percentile([token for _, token in taken], 0.95),
        }
        for name, taken in seconds.items()
    }
    pairs = list(zip(seconds["HTTP, generate"], seconds["engine"], strict=True))
    added = {
        "first_p50_s": statistics.median(served[0] - alone[0] for served, alone in pairs),
        "token_p50_s": statistics.median(served[1] - alone[1] for served, alone in pairs),
    }
    return figures, added


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["torch", "openvino"], default="torch")
    parser.add_argument("--prompt-words", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    figures, added = measure(arguments.backend, arguments.prompt_words, arguments.new_tokens, arguments.repeats)
    hardware = host.describe()
    table = Table(title=f"One client, the default model on {arguments.backend}, {host.machine_line(hardware)}")
    table.add_column("interface", no_wrap=True)
    for heading in ("first token ms p50", "p95", "per token ms p50", "p95"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, *(f"{1e3 * value:.2f}" for value in row.values()))
    table.add_section()
    table.add_row(
        "added by HTTP and pipeline", f"{1e3 * added['first_p50_s']:.2f}", "", f"{1e3 * added['token_p50_s']:.2f}", ""
    )
    Console(stderr=True).print(table)
    print(json.dumps({"hardware": hardware, "backend": arguments.backend, "figures": figures, "added": added}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
