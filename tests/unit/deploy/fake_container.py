"""A fake container: the project's contract over HTTP, in milliseconds and without a model."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

_SESSION = "X-Amzn-SageMaker-Session-Id"


class FakeContainer:
    """Answers /ping with `ping` and questions with `text`; a test requests a failure by a field of the question.

    {"refuse": status, "error": {…}} refuses, {"sleep_s": …} waits, {"pieces": […]} streams these with "pause_s" between
    them, "break" closes the connection in mid-stream. `busy`: how many requests are still refused with 429.
    """

    def __init__(self, text: str = "Brasília", *, ping: int = 200) -> None:
        self.text = text
        self.ping = ping
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.sessions: dict[str, list[str]] = {}
        self.client_left = threading.Event()
        self.busy = 0
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def events(self, question: str) -> list[dict[str, Any]]:
        """The events of a streamed answer to `question`."""
        pieces = [{"type": "text", "text": piece} for piece in f"{self.text}: {question}".split(" ")]
        return [{"type": "sources", "sources": []}, *pieces, {"type": "end", "text": f"{self.text}: {question}"}]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, container: FakeContainer) -> None:
        self.container = container
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.container.client_left.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        self._answer(self.server.container.ping, {}, b"")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        container = self.server.container
        container.headers.append(dict(self.headers.items()))
        try:
            asked = json.loads(body)
        except ValueError:
            self._refuse(400, {"code": "invalid_request", "message": "not JSON", "retryable": False, "field": "body"})
            return
        container.requests.append(asked)
        time.sleep(asked.get("sleep_s", 0))
        if container.busy:
            container.busy -= 1
            self._refuse(429, {"code": "overloaded", "message": "full", "retryable": True, "retry_after_s": 0.05})
        elif "refuse" in asked:
            self._refuse(asked["refuse"], asked["error"])
        elif self.headers.get(_SESSION):
            self._in_session(self.headers[_SESSION], asked)
        elif "pieces" in asked:
            self._stream([piece.encode("latin-1") for piece in asked["pieces"]], asked)
        elif self._accepts_lines():
            lines = [json.dumps(event, ensure_ascii=False).encode() for event in container.events(asked["query"])]
            self._stream([line + b"\n" for line in lines], asked)
        else:
            self._json(200, {"text": f"{container.text}: {asked.get('query')}"}, self._echo())

    def _in_session(self, session: str, asked: dict[str, Any]) -> None:
        container = self.server.container
        headers = self._echo()
        if session == "NEW_SESSION":
            session = f"s{len(container.sessions) + 1}"
            container.sessions[session] = []
            headers["X-Amzn-SageMaker-New-Session-Id"] = f"{session}; Expires=2030-01-02T03:04:05Z"
        if session not in container.sessions:
            error = {"code": "session_closed", "message": "not open", "retryable": False, "field": _SESSION}
            self._refuse(404, error)
            return
        if asked.get("close_session"):
            del container.sessions[session]
            self._json(200, {}, headers | {"X-Amzn-SageMaker-Closed-Session-Id": session})
            return
        container.sessions[session].append(asked["query"])
        if self._accepts_lines():
            self._stream([json.dumps(event).encode() + b"\n" for event in container.events(asked["query"])], asked)
        else:
            self._json(200, {"text": " / ".join(container.sessions[session])}, headers)

    def _accepts_lines(self) -> bool:
        return "application/jsonlines" in self.headers.get("Accept", "")

    def _echo(self) -> dict[str, str]:
        attributes = self.headers.get("X-Amzn-SageMaker-Custom-Attributes")
        return {"X-Secret": "stays", **({"X-Amzn-SageMaker-Custom-Attributes": attributes} if attributes else {})}

    def _stream(self, pieces: list[bytes], asked: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/jsonlines")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            time.sleep(asked.get("pause_s", 0))
        if asked.get("break"):
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _refuse(self, status: int, error: dict[str, Any]) -> None:
        self._json(status, {"error": error}, {"Retry-After": "1"})

    def _json(self, status: int, document: dict[str, Any], headers: dict[str, str]) -> None:
        body = json.dumps(document, ensure_ascii=False).encode()
        self._answer(status, headers | {"Content-Type": "application/json"}, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
