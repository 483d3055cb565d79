"""A request takes a thread only once it is here whole; unfinished ones are bounded in time, size and number."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.process import ServerProcess
from buffered_worker import MAX_HEAD_BYTES, IncomingRequest

HEAD = b"POST /invocations HTTP/1.1\r\nHost: x\r\n"


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n" + trailers + b"\r\n"


WHOLE = [
    b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
    HEAD + b"Content-Length: 5\r\n\r\nhello",
    HEAD + b"Content-Length: 0\r\n\r\n",
    chunked(b"hello", b"world" * 50),
    chunked(b"a", trailers=b"X-Sum: 1\r\n"),
    chunked(),
]


@given(st.sampled_from(WHOLE), st.lists(st.integers(1, 400), max_size=12))
def test_a_request_cut_anywhere_is_complete_with_its_last_byte_and_not_before(whole: bytes, cuts: list[int]) -> None:
    request = IncomingRequest(10_000)
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    for start, end in pairwise(places):
        assert not request.complete
        assert request.feed(whole[start:end]) is None
    assert request.complete


@pytest.mark.parametrize(
    "malformed",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-5\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 300,
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        HEAD + b"Content-Length: five\r\n\r\n",
    ],
)
def test_what_is_malformed_is_left_to_the_parser(malformed: bytes) -> None:
    request = IncomingRequest(10_000)
    assert request.feed(malformed) is None
    assert request.complete


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        (HEAD + b"Content-Length: 10001\r\n\r\n", "body_too_large"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2711\r\n", "body_too_large"),
        (chunked(*[b"x" * 1000] * 11), "body_too_large"),
        (HEAD + b"X: " + b"a" * MAX_HEAD_BYTES, "head_too_large"),
    ],
)
def test_what_is_too_large_is_known_before_it_is_here(sent: bytes, fault: str) -> None:
    assert IncomingRequest(10_000).feed(sent) == fault


SERVER = """
import sys
from flask import Flask, request
from container import Container
from rag.settings import Settings

class Loaded:
    start = close = lambda self: None
    def drain(self, seconds): pass

app = Flask("echo")
def broken():
    yield "begun"
    raise RuntimeError("in the middle of the answer")

app.get("/ping", endpoint="ping")(lambda: "")
app.get("/broken", endpoint="broken")(broken)
app.post("/invocations", endpoint="echo")(lambda: {"bytes": len(request.get_data())})
settings = Settings(host="127.0.0.1", concurrency=2, queue=0, read_timeout_s=2, max_connections=300, max_buffered_mb=25)
Container(settings, int(sys.argv[1]), lambda: (app, Loaded())).run()
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    script = tmp_path_factory.mktemp("server") / "echo.py"
    script.write_text(SERVER, encoding="utf-8")
    here = Path(__file__).parents[3]
    process = ServerProcess(
        [sys.executable, str(script), "{port}"], {"PYTHONPATH": str(here)}, log=script.parent / "log"
    )
    try:
        process.wait_until_ready(30)
        yield process
    finally:
        process.stop()


def opened(server: ServerProcess, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    client.sendall(sent)
    return client


def post(server: ServerProcess, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/invocations", body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


def ping_s(server: ServerProcess) -> float:
    began = time.perf_counter()
    assert server.status() == 200
    return time.perf_counter() - began


@pytest.mark.slow
def test_silent_and_half_sent_requests_hold_no_thread_and_are_told_why_they_end(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(opened(server))
            head = stack.enter_context(opened(server, b"GET /ping HTTP/1.1\r\nX-Slow: "))
            body = stack.enter_context(opened(server, HEAD + b"Content-Length: 100\r\n\r\n{"))
        assert max(ping_s(server) for _ in range(5)) < 1
        assert post(server, b"x" * 100_000) == (200, {"bytes": 100_000})
        for late in (head, body):
            answer = late.recv(4096)
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"READ_TIMEOUT_S" in answer


@pytest.mark.slow
def test_beyond_the_connections_that_are_kept_the_one_that_has_waited_longest_is_closed(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(opened(server)) for _ in range(320)]
        assert ping_s(server) < 1
        assert first.recv(1) == b""


@pytest.mark.slow
def test_a_body_above_the_limit_is_refused_while_it_is_sent(server: ServerProcess) -> None:
    status, answer = post(server, b"x" * 7_000_000)
    assert status == 413
    assert "MAX_BODY_MB" in json.dumps(answer)
    assert post(server, b"x" * 5_900_000) == (200, {"bytes": 5_900_000})


@pytest.mark.slow
def test_when_unfinished_bodies_fill_their_memory_the_largest_is_refused_and_small_ones_pass(
    server: ServerProcess,
) -> None:
    with contextlib.ExitStack() as stack:
        large = [
            stack.enter_context(opened(server, HEAD + b"Content-Length: 5900000\r\n\r\n" + b"x" * 5_500_000))
            for _ in range(5)
        ]
        assert post(server, b"x" * 1000) == (200, {"bytes": 1000})
        answers = []
        for client in large:
            with contextlib.suppress(ConnectionResetError):
                answers.append(client.recv(4096))
        assert sum(answer.startswith(b"HTTP/1.1 429 ") for answer in answers) >= 1


@pytest.mark.slow
def test_pipelined_requests_and_an_expected_continue_are_answered(server: ServerProcess) -> None:
    with opened(server, WHOLE[0] * 3) as client:
        seen = b""
        while seen.count(b"200 OK") < 3:
            seen += client.recv(4096)
    with opened(server, HEAD + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n") as client:
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        seen = b""
        while b'{"bytes":5}' not in seen:
            seen += client.recv(4096)


@pytest.mark.slow
def test_an_answer_that_fails_in_its_middle_ends_its_connection_and_nothing_else(server: ServerProcess) -> None:
    with opened(server) as silent:
        for _ in range(3):
            with opened(server, b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n") as client:
                seen = b""
                while piece := client.recv(4096):
                    seen += piece
            assert b"begun" in seen
        silent.sendall(WHOLE[0])  # the worker is the same: its connections are still there
        assert silent.recv(4096).startswith(b"HTTP/1.1 200 ")
