"""What HTTP and the pipeline add to the bare engine: to the first token, and to every token after it.

    python -m benchmarks.overhead [--backend torch] [--prompt-words 100] [--new-tokens 48] [--repeats 100]

One client, the default model. The engine is asked in this process, without text or HTTP; the server, a process of its
own, streams in the generate mode, which neither embeds nor retrieves, so both compute the same tokens. They take turns,
each request with a random prompt. Both are timed to the first token that makes text: the blank before a first word
shows nothing and is held back. The client is a bare socket: what a client's library takes is not the server's. The
answer mode, which also embeds the question and searches, is timed beside them on questions of its own and can't be
compared token by token. The last line of the output is JSON.
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
from benchmarks.harness.process import served
from benchmarks.load import percentile
from rag.backends.choice import BackendName
from rag.checkpoint import resolve_model
from rag.engine.detokenizer import TextStream
from rag.engine.engine import Engine
from rag.engine.loading import EngineConfig, load_generator
from rag.errors import RagError
from rag.interfaces import Message, Sampling
from rag.settings import Settings

Figures = dict[str, dict[str, float]]

_QUESTIONS = Path(__file__).parent / "questions.jsonl"


def bare(engine: Engine, prompt_ids: list[int], new_tokens: int) -> tuple[list[float], list[int]]:
    """Seconds after submission at which each token came out of the engine, and the tokens."""
    began = time.perf_counter()
    ticket = engine.submit(prompt_ids, Sampling(new_tokens))
    arrivals: list[float] = []
    tokens: list[int] = []
    while True:
        event = ticket.events.get()
        if isinstance(event, RagError):
            raise event
        if event.draw is not None:
            arrivals.append(time.perf_counter() - began)
            tokens.append(event.draw.token)
        if event.finish_reason is not None:
            return arrivals, tokens


def first_shown(tokens: list[int], tokenizer: Tokenizer) -> int:
    """The place of the first token that makes text."""
    text = TextStream(tokenizer)
    return next(place for place, token in enumerate(tokens) if text.push(token))


def over_http(client: socket.socket, body: dict[str, Any]) -> tuple[list[float], int]:
    """Seconds after the request at which each text event arrived, and the tokens that the server counted."""
    content = json.dumps(body).encode()
    head = (
        "POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Accept: application/jsonlines\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    began = time.perf_counter()
    client.sendall(head.encode() + content)
    received, arrived = bytearray(), []  # and what had arrived when: (bytes, seconds)
    while not received.endswith(b"\r\n0\r\n\r\n"):
        piece = client.recv(65536)
        arrived.append((len(received) + len(piece), time.perf_counter() - began))
        received += piece
        if not piece:
            raise RuntimeError(f"the server hung up after {bytes(received[:300])!r}")
    arrivals: list[float] = []
    counted, end = None, 0
    for line in bytes(received).splitlines(keepends=True):
        end += len(line)
        if not line.startswith(b"{"):  # a header, or the size of a chunk
            continue
        event = json.loads(line)
        if event["type"] == "text":
            arrivals.append(next(seconds for size, seconds in arrived if size >= end))
        elif event["type"] == "end":
            counted = int(event["usage"]["completion_tokens"])
    if counted is None:
        raise RuntimeError(f"no end event in {bytes(received[:300])!r}")
    return arrivals, counted


def a_token_s(arrivals: list[float], tokens: int) -> float:
    """Seconds a token after the first piece; several tokens may share a piece, so the ends count."""
    return (arrivals[-1] - arrivals[0]) / max(1, tokens - 1)


def measure(backend: BackendName, prompt_words: int, new_tokens: int, repeats: int) -> tuple[Figures, dict[str, float]]:
    """Medians and tails of first_s and token_s, by way of asking; and the medians of what HTTP added to a prompt."""
    settings = Settings()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    blocks = 1 if backend == "torch" else -(-(settings.context or 0) // 32)  # one session's
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
    words = [word for line in _QUESTIONS.read_text(encoding="utf-8").split() if (word := line.strip('",:{}[]?'))]
    questions = [json.loads(line)["question"] for line in _QUESTIONS.read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(1)
    seconds: dict[str, list[tuple[float, float]]] = {"engine": [], "HTTP, generate": [], "HTTP, answer": []}
    with (
        tempfile.TemporaryDirectory() as logs,
        served({"LOG_LEVEL": "WARNING", "BACKEND": backend}, log=Path(logs) / "log") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as client,
    ):
        for repeat in tqdm(range(repeats + 2), unit="round"):
            prompt = " ".join(drawn.choices(words, k=prompt_words))
            ids = generator.encode([Message("user", prompt)])
            taken, tokens = bare(generator.engine, ids, new_tokens)
            shown = taken[first_shown(tokens, tokenizer) :]
            round_s = {"engine": (shown[0], a_token_s(shown, len(shown)))}
            wanted = {"max_new_tokens": new_tokens, "stream": True}
            for name, body in (
                ("HTTP, generate", {"query": prompt, "mode": "generate", **wanted}),
                ("HTTP, answer", {"query": drawn.choice(questions), **wanted}),
            ):
                arrivals, counted = over_http(client, body)
                if arrivals:
                    round_s[name] = (arrivals[0], a_token_s(arrivals, counted))
            for name, taken_s in round_s.items():
                if repeat >= 2:  # the first rounds warm both up
                    seconds[name].append(taken_s)
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
    table = Table(title=f"One client, the default model on {arguments.backend}, {host.in_words(hardware)}")
    table.add_column("asked", no_wrap=True)
    for heading in ("first ms p50", "p95", "a token ms p50", "p95"):
        table.add_column(heading, justify="right")
    for name, row in figures.items():
        table.add_row(name, *(f"{1e3 * value:.2f}" for value in row.values()))
    table.add_section()
    table.add_row(
        "HTTP and pipeline add", f"{1e3 * added['first_p50_s']:.2f}", "", f"{1e3 * added['token_p50_s']:.2f}", ""
    )
    Console(stderr=True).print(table)
    print(json.dumps({"hardware": hardware, "backend": arguments.backend, "figures": figures, "added": added}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
