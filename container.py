"""gunicorn without its command line: one worker with threads, in which a Boot loads the models."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

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
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._port}",
            "workers": 1,
            "worker_class": "gthread",
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


def log_to_stderr(settings: Settings) -> None:
    """Configure the log of this process; verbose libraries log warnings only."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for verbose in ("sentence_transformers", "faiss", "bm25s", "urllib3"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
