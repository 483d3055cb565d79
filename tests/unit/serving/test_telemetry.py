"""Metrics and log lines; they contain no text of a request unless a setting asks for it."""

from __future__ import annotations

import io
import json
import socket
import urllib.request
from typing import Any, TextIO

import pytest

from benchmarks.harness.process import free_port
from rag.answering.ask import Ask
from rag.answering.pipeline import Pipeline
from rag.interfaces import KvUse, Sampling, Usage
from rag.process.log_writer import LogWriter
from rag.serving.telemetry import Telemetry
from tests.fakes import fake_pipeline

QUESTION = "Qual a capital do Brasil?"


class DirectWriter(LogWriter):
    """Writes in the caller's thread."""

    def write(self, stream: TextIO, line: str) -> None:
        stream.write(line + "\n")


def telemetry(out: io.StringIO, **settings: Any) -> Telemetry:
    return Telemetry(lambda: Usage(10, 8, 1000, 3, 1, 2), lambda: KvUse(5, 77), out=out, log=DirectWriter(), **settings)


@pytest.fixture
def pipeline() -> Pipeline:
    return fake_pipeline()


def answered(metrics: Telemetry, pipeline: Pipeline) -> None:
    answer = pipeline.answer(Ask((QUESTION,), Sampling(max_new_tokens=8)))
    metrics.request(status=200, code=None, total_s=0.5, answer=answer, mode="answer", question=QUESTION)


def test_a_request_logs_one_json_line_without_its_text(pipeline: Pipeline) -> None:
    out = io.StringIO()
    answered(telemetry(out), pipeline)
    (line,) = out.getvalue().splitlines()
    document = json.loads(line)
    assert (document["event"], document["status"], document["completion_tokens"]) == ("request", 200, 3)
    assert QUESTION not in line
    assert "Brasília" not in line


def test_question_and_answer_are_logged_if_a_setting_asks_for_it(pipeline: Pipeline) -> None:
    out = io.StringIO()
    answered(telemetry(out, log_prompts=True), pipeline)
    document = json.loads(out.getvalue())
    assert (document["question"], document["answer"]) == (QUESTION, "Brasília.")


def test_prometheus_metrics_are_served_on_loopback(pipeline: Pipeline) -> None:
    metrics = telemetry(io.StringIO())
    answered(metrics, pipeline)
    metrics.request(status=429, code="overloaded", total_s=0.001, answer=None)
    port = free_port()
    stop = metrics.serve(port)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
    finally:
        stop()
    for line in (
        "rag_kv_used_bytes 5000.0",
        "rag_kv_reserved_bytes 8000.0",
        "rag_kv_total_bytes 10000.0",
        "rag_sessions 1.0",
        "rag_running 3.0",
        "rag_waiting 2.0",
        "rag_prefix_hit_tokens 77.0",
        'rag_requests_total{status="200"} 1.0',
        'rag_refused_total{code="overloaded"} 1.0',
        "rag_completion_tokens_total 3.0",
        "rag_first_token_seconds_count 1.0",
    ):
        assert line in lines


def test_an_embedded_metric_line_declares_every_value_and_covers_the_time_since_the_last(pipeline: Pipeline) -> None:
    out = io.StringIO()
    metrics = telemetry(out)
    metrics.emit()
    assert not out.getvalue()  # nothing happened, nothing to say
    answered(metrics, pipeline)
    metrics.request(status=429, code="overloaded", total_s=0.001, answer=None)
    out.truncate(0)
    out.seek(0)
    metrics.emit()
    metrics.emit()
    (line,) = out.getvalue().splitlines()
    document = json.loads(line)
    (directive,) = document["_aws"]["CloudWatchMetrics"]
    assert {metric["Name"] for metric in directive["Metrics"]} == set(document) - {"_aws"}
    assert (document["Requests"], document["Refused"], document["Tokens"]) == (2, 1, 3)
    assert document["KVReservedPercent"] == 80


def test_a_metrics_port_that_is_taken_is_logged_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        telemetry(io.StringIO()).serve(taken.getsockname()[1])()
    assert "METRICS_PORT" in caplog.text
