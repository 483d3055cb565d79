"""Prometheus metrics, CloudWatch's embedded metric format, and one JSON log line a request.

Prometheus text is served on a separate port, on loopback only. The embedded metric format is a line of plain JSON on
stdout that CloudWatch turns into metrics; nothing is sent from here.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import Counter as Counted
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from rag.answering.run import Answer
from rag.interfaces import KvUse, Usage
from rag.process.log_writer import LOG, LogWriter

_FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50)
_EACH_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)
_NAMESPACE = "RAG"

_log = logging.getLogger(__name__)


class Telemetry:
    """Counts requests; `usage` and `kv_use` are called whenever metrics are read."""

    def __init__(
        self,
        usage: Callable[[], Usage],
        kv_use: Callable[[], KvUse],
        *,
        log_prompts: bool = False,
        out: TextIO | None = None,
        log: LogWriter = LOG,
    ) -> None:
        self.registry = CollectorRegistry()
        self._usage = usage
        self._log_prompts = log_prompts
        self._out = out or sys.stdout
        self._log = log
        self._lock = threading.Lock()
        # Since the last embedded-metric line; that format takes at most 100 values of a metric.
        self._counts: Counted[str] = Counted()
        self._latencies_s: dict[str, deque[float]] = {"FirstToken": deque(maxlen=100), "EachToken": deque(maxlen=100)}
        self._requests = Counter("rag_requests", "Requests answered, by status", ["status"], registry=self.registry)
        self._refused = Counter("rag_refused", "Requests refused, by error code", ["code"], registry=self.registry)
        self._prompt_tokens = Counter("rag_prompt_tokens", "Tokens read", registry=self.registry)
        self._completion_tokens = Counter("rag_completion_tokens", "Tokens generated", registry=self.registry)
        self._first_token = Histogram(
            "rag_first_token_seconds", "Arrival to first token", buckets=_FIRST_TOKEN_S, registry=self.registry
        )
        self._each_token = Histogram(
            "rag_each_token_seconds", "Time a further token takes", buckets=_EACH_TOKEN_S, registry=self.registry
        )
        self._queue = Histogram("rag_queue_seconds", "Wait for memory", buckets=_FIRST_TOKEN_S, registry=self.registry)
        gauges: dict[tuple[str, str], Callable[[], float]] = {
            ("rag_kv_used_bytes", "KV memory in use by sequences"): lambda: kv_use().used_blocks * usage().block_bytes,
            ("rag_kv_reserved_bytes", "KV memory reserved for requests and sessions"): lambda: (
                usage().reserved_blocks * usage().block_bytes
            ),
            ("rag_kv_total_bytes", "KV memory of the plan"): lambda: usage().total_blocks * usage().block_bytes,
            ("rag_sessions", "Open sessions"): lambda: usage().sessions,
            ("rag_running", "Requests that hold memory"): lambda: usage().requests,
            ("rag_waiting", "Requests that wait in the queue"): lambda: usage().waiting,
            ("rag_prefix_hit_tokens", "Prompt tokens found in the prefix cache, in total"): lambda: (
                kv_use().reused_tokens
            ),
            ("rag_log_lines_dropped", "Log lines dropped: the reader was too slow"): lambda: log.dropped,
        }
        for (name, meaning), read in gauges.items():
            Gauge(name, meaning, registry=self.registry).set_function(read)

    def serve(self, port: int) -> Callable[[], None]:
        """Serve Prometheus text on 127.0.0.1:`port`; the returned callable stops it. A taken port is logged."""
        try:
            server, thread = start_http_server(port, addr="127.0.0.1", registry=self.registry)
        except OSError as error:
            _log.error("METRICS_PORT %d can't be served (%s): the container runs without it", port, error)
            return lambda: None

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return stop

    def request(self, *, status: int, code: str | None, total_s: float, answer: Answer | None, **fields: Any) -> None:
        """Count a finished request and write its log line, with `fields` added to it."""
        self._requests.labels(str(status)).inc()
        self._count("Requests", 1)
        if code is not None:
            self._refused.labels(code).inc()
            self._count("Refused", 1)
        line: dict[str, Any] = {
            "event": "request",
            "time": round(time.time(), 3),
            "status": status,
            "code": code,
            "total_s": round(total_s, 4),
            **fields,
        }
        if answer is not None:
            self._answered(answer)
            line |= {
                "id": answer.id,
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens,
                "finish_reason": answer.finish_reason,
                "grounded": answer.grounded,
                "language": answer.language,
                "timings": dict(answer.timings),
            }
        question = line.pop("question", None)
        if self._log_prompts:
            line |= {"question": question, "answer": answer and answer.text}
        self._write({name: value for name, value in line.items() if value is not None})

    def emit(self) -> None:
        """Write a line in the embedded metric format on the time since the last one; none if nothing was counted."""
        with self._lock:
            if not self._counts:
                return
            period: dict[str, Any] = dict(self._counts)
            period |= {name: list(seen) for name, seen in self._latencies_s.items() if seen}
            self._counts.clear()
            for seen in self._latencies_s.values():
                seen.clear()
        usage = self._usage()
        share = 100 * usage.reserved_blocks / max(1, usage.total_blocks)
        values: dict[str, Any] = {
            **period,
            "KVReservedPercent": round(share, 2),
            "Sessions": usage.sessions,
            "Waiting": usage.waiting,
        }
        units = {"FirstToken": "Seconds", "EachToken": "Seconds", "KVReservedPercent": "Percent"}
        metrics = [{"Name": name, "Unit": units.get(name, "Count")} for name in values]
        head = {
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [{"Namespace": _NAMESPACE, "Dimensions": [[]], "Metrics": metrics}],
        }
        self._write({"_aws": head, **values})

    def _answered(self, answer: Answer) -> None:
        self._prompt_tokens.inc(answer.prompt_tokens)
        self._completion_tokens.inc(answer.completion_tokens)
        self._count("Tokens", answer.completion_tokens)
        timings = answer.timings
        self._queue.observe(timings.get("queue_s", 0.0))
        first_s = timings.get("first_token_s")
        if first_s is None:
            return
        self._first_token.observe(first_s)
        self._latencies_s["FirstToken"].append(first_s)
        if answer.completion_tokens > 1:
            each_s = max(0.0, timings["total_s"] - first_s) / (answer.completion_tokens - 1)
            self._each_token.observe(each_s)
            self._latencies_s["EachToken"].append(each_s)

    def _count(self, name: str, by: int) -> None:
        with self._lock:
            self._counts[name] += by

    def _write(self, document: Mapping[str, Any]) -> None:
        self._log.write(self._out, json.dumps(document, ensure_ascii=False, separators=(",", ":")))
