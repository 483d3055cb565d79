"""Tokens a second over HTTP: this server against Flask with `generate` under a lock, same model, prompts and machine.

    python -m benchmarks.throughput [--clients 1 8 16 32] [--workloads 562x32 119x48] [--repeats 3]

The model has SmolLM2-135M's shape with random weights in float32; every request has its own random prompt, so nothing
can be shared. Each client asks once per round, all at the same moment; both servers run the same rounds in turn and
medians are compared within this one run. The last line of its output is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from benchmarks.process import ROOT, free_port, served

_MODEL = ROOT / "build" / "benchmarks" / "smol135"
_VOCABULARY = 49_152


def make_model(directory: Path) -> None:
    """SmolLM2-135M's shape, random weights, and a tokenizer of one token a word, so that prompts have exact lengths."""
    import torch  # noqa: PLC0415 - the benchmark's own process needs it only here
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast  # noqa: PLC0415

    if (directory / "config.json").exists():
        return
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    untyped: Any = AutoModelForCausalLM
    untyped.from_config(config).save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({f"t{token}": token for token in range(_VOCABULARY)}, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, eos_token="t0", pad_token="t0").save_pretrained(directory)


@contextmanager
def naive(directory: Path) -> Iterator[str]:
    """The hand-written server, for the length of a with block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.naive_server", str(directory), str(port)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


class Peer(NamedTuple):
    """A server under measurement, and what else it wants in a request for exactly so many tokens."""

    name: str
    url: str
    asks_for_exactly: bool = False

    def body(self, prompt: str, new_tokens: int) -> dict[str, Any]:
        """A request for `new_tokens`, whatever the model would like to end with."""
        body = {"query": prompt, "max_new_tokens": new_tokens}
        return body | {"mode": "generate", "min_new_tokens": new_tokens} if self.asks_for_exactly else body


def tokens_per_s(peer: Peer, clients: int, prompt_tokens: int, new_tokens: int, drawn: random.Random) -> float:
    """Of `clients` requests sent at the same moment, each with a random prompt of its own."""

    def ask(prompt: str) -> int:
        response = client.post(f"{peer.url}/invocations", json=peer.body(prompt, new_tokens))
        response.raise_for_status()
        return int(response.json()["usage"]["completion_tokens"])

    prompts = [" ".join(f"t{drawn.randrange(1, _VOCABULARY)}" for _ in range(prompt_tokens)) for _ in range(clients)]
    with httpx.Client(timeout=600) as client, ThreadPoolExecutor(clients) as threads:
        began = time.perf_counter()
        tokens = sum(threads.map(ask, prompts))
        seconds = time.perf_counter() - began
    if tokens != clients * new_tokens:
        raise RuntimeError(f"{peer.name} sent {tokens} tokens, not {clients * new_tokens}")
    return tokens / seconds


def measure(clients: Sequence[int], workloads: Sequence[tuple[int, int]], repeats: int) -> list[dict[str, Any]]:
    """One row a workload and number of clients, both servers in turn within each repeat."""
    make_model(_MODEL)
    settings = {
        "LLM": str(_MODEL),
        "CONTEXT": "640",
        "CONCURRENCY": str(max(clients)),
        "LOG_LEVEL": "WARNING",
        "DEADLINE_S": "600",
    }
    rows = []
    with served(settings) as ours, naive(_MODEL) as theirs:
        peers = [Peer("this server", ours.url, asks_for_exactly=True), Peer("naive", theirs)]
        drawn = random.Random(1)
        for peer in peers:
            tokens_per_s(peer, 1, 32, 4, drawn)  # both are warm before the clock runs
        for prompt_tokens, new_tokens in workloads:
            for count in clients:
                rates: dict[str, list[float]] = {peer.name: [] for peer in peers}
                for _ in range(repeats):
                    for peer in peers:
                        rates[peer.name].append(tokens_per_s(peer, count, prompt_tokens, new_tokens, drawn))
                    print(".", end="", file=sys.stderr, flush=True)
                here, there = (statistics.median(rates[name]) for name in ("this server", "naive"))
                rows.append(
                    {
                        "prompt_tokens": prompt_tokens,
                        "new_tokens": new_tokens,
                        "clients": count,
                        "tokens_per_s": here,
                        "naive_tokens_per_s": there,
                        "ratio": here / there,
                        "spread": [min(rates["this server"]) / there, max(rates["this server"]) / there],
                    }
                )
    print(file=sys.stderr)
    return rows


def main() -> int:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--workloads", nargs="+", default=["562x32", "119x48"], help="prompt tokens x new tokens")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    workloads = []
    for workload in arguments.workloads:
        prompt_tokens, _, new_tokens = workload.partition("x")
        workloads.append((int(prompt_tokens), int(new_tokens)))
    rows = measure(arguments.clients, workloads, arguments.repeats)
    table = Table(title="Tokens a second, median; SmolLM2-135M's shape, float32")
    for heading in ("prompt + new", "clients", "this server", "Flask + lock", "ratio", "spread"):
        table.add_column(heading, justify="right")
    for row in rows:
        low, high = row["spread"]
        table.add_row(
            f"{row['prompt_tokens']} + {row['new_tokens']}",
            str(row["clients"]),
            f"{row['tokens_per_s']:.1f}",
            f"{row['naive_tokens_per_s']:.1f}",
            f"{row['ratio']:.2f}×",
            f"{low:.2f}–{high:.2f}",
        )
    Console(stderr=True).print(table)
    print(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
