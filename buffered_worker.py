"""gunicorn's gthread worker, except that a connection takes a thread only once its whole request has arrived.

gthread reads headers and body in a thread of its pool, so that a hundred half-sent requests hold every thread and
/ping waits behind them. Here the worker's event loop reads requests. It bounds the time in which one must arrive (408),
the size of its headers (431) and body (413), and the bytes of all unfinished requests together (429 to the largest).
When connections or descriptors run out, the connection that has waited longest without a whole request is closed.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from gunicorn.http import get_parser
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

_RECEIVE_BYTES = 256 * 1024
MAX_HEAD_BYTES = 64 * 1024
_MAX_CHUNK_LINE_BYTES = 256
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# How long, and how much, is read and discarded after an answer, so that its client sees it whole.
_CLOSE_LINGER_S, _REFUSED_LINGER_S, _MAX_LINGER_BYTES = 2.0, 10.0, 64_000_000
# A blocking read or write in a thread: the request is buffered, so only a client that stops reading gets here.
_SOCKET_TIMEOUT_S = 30

Fault = Literal["timeout", "head_too_large", "body_too_large", "busy"]


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """Bounds on unfinished requests, and the whole HTTP response to each fault."""

    read_timeout_s: float
    max_body_bytes: int
    max_buffered_bytes: int
    responses: Mapping[Fault, bytes]


class IncomingRequest:
    """The bytes of one request as they arrive, and whether it is complete.

    Only framing is read here: where the head ends, Content-Length, chunks. Anything malformed counts as complete, so
    that gunicorn's parser judges it.
    """

    def __init__(self, max_body_bytes: int) -> None:
        self.data = bytearray()
        self.expects_continue = False
        self._max_body_bytes = max_body_bytes
        self._body_start: int | None = None
        self._end: int | None = None
        self._chunk = 0  # where the next chunk's size line starts; 0 while the body is not chunked

    def feed(self, data: bytes) -> Fault | None:
        """Add bytes. Returns the bound that the request exceeds, if it does."""
        searched = max(0, len(self.data) - 3)
        self.data += data
        if self._body_start is None:
            head_end = self.data.find(b"\r\n\r\n", searched)
            if head_end < 0:
                return "head_too_large" if len(self.data) > MAX_HEAD_BYTES else None
            if head_end > MAX_HEAD_BYTES:
                return "head_too_large"
            self._body_start = head_end + 4
            self._read_head(bytes(self.data[:head_end]))
        if self._chunk:
            self._follow_chunks()
        body_bytes = (self._end if self._end is not None else len(self.data)) - self._body_start
        return "body_too_large" if body_bytes > self._max_body_bytes else None

    @property
    def complete(self) -> bool:
        """Whether all bytes of the request are here."""
        return self._end is not None and len(self.data) >= self._end

    def _read_head(self, head: bytes) -> None:
        assert self._body_start is not None
        self._end = self._body_start
        length: int | None = None
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            name, value = name.strip().lower(), value.strip().lower()
            if name == b"content-length" and value.isdigit() and len(value) < 16:
                length = int(value)
            elif name == b"transfer-encoding" and value == b"chunked":
                self._chunk = self._body_start
            elif name == b"expect" and value == b"100-continue":
                self.expects_continue = True
        if self._chunk and length is None:
            self._end = None
        elif length is not None and not self._chunk:
            self._end = self._body_start + length
        else:
            self._chunk = 0  # both or neither: no body, or one that the parser refuses

    def _follow_chunks(self) -> None:
        """Move over whole chunks; sets the end after the last one's trailers, or at once where a size is malformed."""
        while self._end is None:
            line_end = self.data.find(b"\r\n", self._chunk, self._chunk + _MAX_CHUNK_LINE_BYTES)
            if line_end < 0:
                if len(self.data) - self._chunk >= _MAX_CHUNK_LINE_BYTES:
                    self._end = len(self.data)
                return
            try:
                size = int(bytes(self.data[self._chunk : line_end]).partition(b";")[0].strip(), 16)
            except ValueError:
                size = -1
            if size < 0:
                self._end = len(self.data)
            elif size == 0:
                trailers_end = self.data.find(b"\r\n\r\n", line_end)
                if self.data[line_end + 2 : line_end + 4] == b"\r\n":
                    self._end = line_end + 4
                elif trailers_end >= 0:
                    self._end = trailers_end + 4
                elif len(self.data) - line_end > MAX_HEAD_BYTES:
                    self._end = len(self.data)
                return
            elif line_end + 2 + size + 2 > len(self.data):
                if size > self._max_body_bytes:
                    self._end = line_end + 2 + size
                return
            else:
                self._chunk = line_end + 2 + size + 2


@dataclass(slots=True)
class _Waiting:
    """A connection on the event loop. `discarded` counts bytes after a refusal; None before one."""

    request: IncomingRequest
    deadline: float
    discarded: int | None = None


class BufferedWorker(ThreadWorker):  # type: ignore[misc]
    """A gthread worker that reads requests on its event loop. A subclass sets `limits`."""

    limits: ReadLimits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[TConn, _Waiting] = {}
        self._buffered_bytes = 0
        self._stop_deadline: float | None = None

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection and wait for its request on the event loop."""
        try:
            client, address = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_DESCRIPTORS:
                self._close_longest_waiting()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK):
                raise
            return
        self.nr_conns += 1
        if self.nr_conns >= self.worker_connections:
            self._close_longest_waiting()
        timeout = struct.pack("ll", _SOCKET_TIMEOUT_S, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            client.setsockopt(socket.SOL_SOCKET, option, timeout)
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.parser = get_parser(self.cfg, client, address)
        self._wait(conn)

    def finish_request(self, conn: TConn, fs: Any) -> None:
        """A kept-alive connection waits for its next request on the event loop, with what it has sent of it already."""
        try:
            keep = not fs.cancelled() and fs.result()
        except Exception:
            keep = False
        if conn.sock.fileno() < 0:  # closed by gunicorn, after an application failed in the middle of its answer
            self._close(conn)
            return
        conn.sock.setblocking(False)
        data = conn.parser.unreader.take_buffered()
        waiting = self._wait(conn)
        if not keep:
            self._linger(conn, waiting, _CLOSE_LINGER_S)
        elif data:
            self._feed(conn, waiting, data)

    def murder_pending(self) -> None:
        """Close what has waited too long; called every second. Once stopping, all that still waits has 2 s."""
        now = time.monotonic()
        if not self.alive and self._stop_deadline is None:
            self._stop_deadline = now + STOP_KEEPALIVE_LINGER
        stopping = self._stop_deadline is not None and now >= self._stop_deadline
        for conn, waiting in list(self._waiting.items()):
            if now >= waiting.deadline or stopping:
                if waiting.request.data and waiting.discarded is None:
                    self._send(conn, self.limits.responses["timeout"])
                self._leave_loop(conn)
                self._close(conn)

    def _wait(self, conn: TConn) -> _Waiting:
        waiting = _Waiting(IncomingRequest(self.limits.max_body_bytes), time.monotonic() + self.cfg.keepalive)
        self._waiting[conn] = waiting
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_readable, conn))
        return waiting

    def _on_readable(self, conn: TConn, sock: socket.socket) -> None:
        try:
            data = sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        waiting = self._waiting[conn]
        if not data:
            self._leave_loop(conn)
            self._close(conn)
        elif waiting.discarded is None:
            self._feed(conn, waiting, data)
        else:
            waiting.discarded += len(data)
            if waiting.discarded > _MAX_LINGER_BYTES:
                self._leave_loop(conn)
                self._close(conn)

    def _feed(self, conn: TConn, waiting: _Waiting, data: bytes) -> None:
        request = waiting.request
        if not request.data:
            waiting.deadline = time.monotonic() + self.limits.read_timeout_s
        self._buffered_bytes += len(data)
        fault = request.feed(data)
        if fault is not None:
            self._refuse(conn, waiting, fault)
        elif request.complete:
            self._leave_loop(conn)
            conn.parser.unreader.unread(bytes(request.data))
            conn.data_ready = True
            self.enqueue_req(conn)
        else:
            if request.expects_continue:
                request.expects_continue = False
                self._send(conn, b"HTTP/1.1 100 Continue\r\n\r\n")
            if self._buffered_bytes > self.limits.max_buffered_bytes:
                largest = max(self._waiting, key=lambda conn: len(self._waiting[conn].request.data))
                self._refuse(largest, self._waiting[largest], "busy")

    def _refuse(self, conn: TConn, waiting: _Waiting, fault: Fault) -> None:
        self._send(conn, self.limits.responses[fault])
        self._buffered_bytes -= len(waiting.request.data)
        waiting.request.data.clear()
        self._linger(conn, waiting, _REFUSED_LINGER_S)

    @staticmethod
    def _linger(conn: TConn, waiting: _Waiting, seconds: float) -> None:
        """End the answer, and discard what the client still sends: closing at once could lose the answer (RST)."""
        with contextlib.suppress(OSError):
            conn.sock.shutdown(socket.SHUT_WR)
        waiting.discarded = 0
        waiting.deadline = time.monotonic() + seconds

    def _close_longest_waiting(self) -> None:
        if self._waiting:
            conn = next(iter(self._waiting))
            self._leave_loop(conn)
            self._close(conn)

    def _leave_loop(self, conn: TConn) -> None:
        waiting = self._waiting.pop(conn)
        self._buffered_bytes -= len(waiting.request.data)
        with contextlib.suppress(OSError, KeyError, ValueError):
            self.poller.unregister(conn.sock)

    def _close(self, conn: TConn) -> None:
        self.nr_conns -= 1
        conn.close()

    @staticmethod
    def _send(conn: TConn, data: bytes) -> None:
        """Send a few bytes without blocking; only a client that does not read can lose some."""
        with contextlib.suppress(OSError):
            conn.sock.send(data)
