"""Cancels a request whose client has disconnected while it waits or is computed.

A web server detects a disconnect only when it writes; a plain answer is written once, at the end.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading

from rag.cancellation import Call


class DisconnectWatcher:
    """One thread that watches the sockets of all open requests. Does nothing on systems without epoll."""

    def __init__(self) -> None:
        self._calls: dict[int, Call] = {}
        self._lock = threading.Lock()
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._thread: threading.Thread | None = None

    def watch(self, client: socket.socket, call: Call) -> None:
        """Cancel `call` when the peer of `client` closes its side."""
        if self._epoll is None:
            return
        fileno = client.fileno()
        with self._lock:
            self._calls[fileno] = call
            # A number that is still registered belonged to a socket that has been closed since, or to this very one.
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(fileno)
            self._epoll.register(fileno, select.EPOLLRDHUP | select.EPOLLONESHOT)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="disconnects", daemon=True)
                self._thread.start()

    def unwatch(self, client: socket.socket) -> None:
        """The request has ended."""
        if self._epoll is None:
            return
        fileno = client.fileno()
        with self._lock:
            if self._calls.pop(fileno, None) is not None:
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fileno)

    def _run(self) -> None:
        assert self._epoll is not None
        while True:
            for fileno, _ in self._epoll.poll():
                with self._lock:
                    call = self._calls.pop(fileno, None)
                if call is not None:
                    call.cancel()
