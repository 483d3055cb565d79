"""Log lines leave the process through one thread and a bounded queue: a reader that stops reading blocks nothing else.

A pipe whose reader has stopped fills up, and a write to it blocks: done in the thread of a request, that stops the
request, and with it /ping. Lines that do not fit into the queue are dropped and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import queue
import threading
from typing import TextIO

from typing_extensions import override

_MAX_LINES = 10_000
_MAX_FLUSH_S = 2.0


class LogWriter:
    """Writes lines to text streams, in order, from a thread that starts with the first line."""

    def __init__(self, max_lines: int = _MAX_LINES) -> None:
        self.dropped = 0
        self._queue: queue.Queue[tuple[TextIO, str]] = queue.Queue(max_lines)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._reported = 0

    def write(self, stream: TextIO, line: str) -> None:
        """Queue `line`, without its newline, for `stream`; drop it where the queue is full."""
        try:
            self._queue.put_nowait((stream, line))
        except queue.Full:
            with self._lock:
                self.dropped += 1
        if self._thread is None:
            self._start()

    def flush(self, timeout_s: float = _MAX_FLUSH_S) -> None:
        """Wait until all queued lines are written, `timeout_s` at most."""
        with self._queue.all_tasks_done:
            self._queue.all_tasks_done.wait_for(lambda: not self._queue.unfinished_tasks, timeout_s)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            stream, line = self._queue.get()
            if self.dropped > self._reported and self._queue.qsize() < self._queue.maxsize // 2:
                line += f"\n{self.dropped - self._reported} log lines were dropped: the log's reader did not keep up"
                self._reported = self.dropped
            with contextlib.suppress(OSError, ValueError):  # a closed pipe, a closed stream
                stream.write(line + "\n")
                stream.flush()
            self._queue.task_done()


LOG = LogWriter()
"""The log of this process."""


class QueuedHandler(logging.Handler):
    """Writes log records to `stream` through a LogWriter."""

    def __init__(self, stream: TextIO, writer: LogWriter = LOG) -> None:
        super().__init__()
        self._stream = stream
        self._writer = writer

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self._stream, self.format(record))
        except Exception:
            self.handleError(record)
