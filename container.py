"""gunicorn without its command line: one worker with threads, in which a Boot loads the models."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from buffered_worker import MAX_HEAD_BYTES, BufferedWorker, Fault, ReadLimits
from inference import body_too_large
from rag.errors import Overloaded, RagError, RequestHeadTooLarge, RequestTimeout, status_of
from rag.process.log_writer import LOG, QueuedHandler
from rag.process.process_memory import share_arenas
from rag.serving.lifecycle import Boot
from rag.settings import Settings

# SageMaker kills 30 s after SIGTERM: running requests get this long, and 2 s more to send the end of their answers.
_DRAIN_S = 24


class Container(BaseApplication):  # type: ignore[misc]
    """Serves the application of `build` on HOST:`port` until SIGTERM. `build` is called in the worker."""

    def __init__(self, settings: Settings, port: int, build: Callable[[], tuple[Flask, Boot[Any]]]) -> None:
        self._settings = settings
        self._port = port
        self._build = build
        self._boot: Boot[Any] | None = None
        super().__init__()

    def load_config(self) -> None:
        """One worker: a second would load the weights again. No preload: torch does not survive a fork."""
        host = self._settings.host
        options: dict[str, Any] = {
            "bind": f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}",
            "workers": 1,
            "worker_class": type("Worker", (BufferedWorker,), {"limits": _read_limits(self._settings)}),
            "worker_connections": self._settings.max_connections,
            "threads": self._settings.http_threads,
            "timeout": 120,
            "graceful_timeout": _DRAIN_S + 2,
            "keepalive": 75,
            "control_socket_disable": True,  # unused, and it would be written below HOME
            "proc_name": "rag",
            "loglevel": self._settings.log_level.lower(),
            "post_worker_init": self._drain_on_sigterm,
            "worker_exit": lambda _server, _worker: self._close(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Called in the worker. The models load in the Boot's thread."""
        log_to_stderr(self._settings)
        share_arenas()
        # With dozens of threads, Python's default switch interval of 5 ms would make /ping wait for many of them.
        sys.setswitchinterval(0.0005)
        app, self._boot = self._build()
        self._boot.on_dead = _exit
        self._boot.start()
        return app

    def _drain_on_sigterm(self, worker: Any) -> None:
        """gunicorn lets running requests finish; admission refuses new ones and ends long ones."""

        def handle(signal_number: int, frame: Any) -> None:
            # Not in the handler itself: it interrupts the main thread anywhere, perhaps while it holds a lock.
            if self._boot is not None:
                threading.Thread(target=self._boot.drain, args=(_DRAIN_S,), name="drain").start()
            worker.handle_exit(signal_number, frame)

        signal.signal(signal.SIGTERM, handle)

    def _close(self) -> None:
        if self._boot is not None:
            self._boot.close()
        LOG.flush()


def _exit() -> None:
    """End worker and arbiter with status 3, so that the platform replaces a container that can't recover."""
    LOG.flush()
    os._exit(Arbiter.WORKER_BOOT_ERROR)


def _read_limits(settings: Settings) -> ReadLimits:
    cap = int(settings.max_body_mb * 1e6)
    faults: dict[Fault, RagError] = {
        "timeout": RequestTimeout(
            "the request did not arrive whole in time",
            field="request",
            limit=f"{settings.read_timeout_s:g} s",
            remedy="send the whole request at once, or deploy with a larger READ_TIMEOUT_S",
        ),
        "head_too_large": RequestHeadTooLarge(
            "the request's headers are too large",
            field="headers",
            limit=f"{MAX_HEAD_BYTES} bytes",
            remedy="send fewer or shorter headers",
        ),
        "body_too_large": body_too_large(settings.max_body_mb),
        "busy": Overloaded(
            "the memory for requests that are still arriving is in use",
            field="body",
            limit=f"{settings.max_buffered_mb:g} MB",
            remedy="retry, or deploy with a larger MAX_BUFFERED_MB",
            retry_after_s=1.0,
        ),
    }
    return ReadLimits(
        read_timeout_s=settings.read_timeout_s,
        max_body_bytes=cap,
        max_buffered_bytes=int(settings.max_buffered_mb * 1e6),
        responses={fault: _response(error) for fault, error in faults.items()},
    )


def _response(error: RagError) -> bytes:
    """The whole HTTP response, for a request that never reaches the application."""
    status, body = HTTPStatus(status_of(error)), json.dumps(error.body()).encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *([f"Retry-After: {max(1, round(error.retry_after_s))}"] if error.retry_after_s is not None else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


def log_to_stderr(settings: Settings) -> None:
    """Configure the log of this process; verbose libraries log warnings only."""
    handler = QueuedHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler])
    logging.getLogger("gunicorn.error").handlers = [handler]
    for verbose in ("sentence_transformers", "faiss", "bm25s", "urllib3"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
