"""Cancels a request whose client has disconnected while it waits or is computed.

A web server detects a disconnect only when it writes; a plain answer is written once, at the end. A client that has
closed its sending side only ("half-closed", RFC 9112 section 9.6) still waits for its answer, and looks the same until
something is sent to it: an interim response (100 Continue), which every HTTP/1.1 client skips, makes the difference. A
closed peer answers it with a reset.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from dataclasses import dataclass

from rag.cancellation import Call

_INTERIM_RESPONSE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CLOSED = select.POLLHUP | select.POLLERR | select.POLLNVAL


@dataclass(slots=True)
class _Watched:
    client: socket.socket
    call: Call
    may_probe: bool


class DisconnectWatcher:
    """One thread that watches the sockets of all open requests. Does nothing on systems without epoll."""

    def __init__(self) -> None:
        self._watched: dict[int, _Watched] = {}
        self._lock = threading.Lock()
        self._epoll = select.epoll() if hasattr(select, "epoll") else None
        self._thread: threading.Thread | None = None

    def watch(self, client: socket.socket, call: Call, *, may_probe: bool = True) -> None:
        """Cancel `call` when the peer of `client` disconnects. `may_probe`: it takes interim responses (HTTP/1.1)."""
        if self._epoll is None:
            return
        fileno = client.fileno()
        with self._lock:
            self._watched[fileno] = _Watched(client, call, may_probe)
            # A number that is still registered belonged to a socket that has been closed since, or to this very one.
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(fileno)
            self._epoll.register(fileno, select.EPOLLRDHUP | select.EPOLLONESHOT)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="disconnects", daemon=True)
                self._thread.start()

    def response_begins(self, client: socket.socket) -> None:
        """The response is about to be written: nothing else may be sent from now on."""
        with self._lock:
            watched = self._watched.get(client.fileno())
            if watched is not None:
                watched.may_probe = False

    def unwatch(self, client: socket.socket) -> None:
        """The request has ended."""
        if self._epoll is None:
            return
        fileno = client.fileno()
        with self._lock:
            if self._watched.pop(fileno, None) is not None:
                with contextlib.suppress(OSError):
                    self._epoll.unregister(fileno)

    def _run(self) -> None:
        assert self._epoll is not None
        while True:
            for fileno, _ in self._epoll.poll():
                call = self._disconnected(fileno)
                if call is not None:
                    call.cancel()

    def _disconnected(self, fileno: int) -> Call | None:
        """The call to cancel after an event on `fileno`.

        The event may be an earlier client's: it was fetched before the lock was taken, and the number can have been
        given to another socket since. So the socket is asked again under the lock.
        """
        assert self._epoll is not None
        with self._lock:
            watched = self._watched.get(fileno)
            if watched is None:
                return None
            state = _state(watched.client)
            if state & _CLOSED or (state and not self._half_closed(watched)):
                del self._watched[fileno]
                return watched.call
            # What is half-closed stays so: only a reset (always reported) is an event from now on.
            with contextlib.suppress(OSError):
                self._epoll.modify(fileno, select.EPOLLONESHOT | (0 if state else select.EPOLLRDHUP))
            return None

    @staticmethod
    def _half_closed(watched: _Watched) -> bool:
        """Whether the peer may still read. While a response is being written, the writes themselves find out."""
        if not watched.may_probe:
            return True
        try:
            return watched.client.send(_INTERIM_RESPONSE, socket.MSG_DONTWAIT) > 0
        except OSError:
            return False


def _state(client: socket.socket) -> int:
    """The poll events of a socket that say that its peer has closed one side or both; 0 for none."""
    poll = select.poll()
    poll.register(client, select.POLLRDHUP)
    events = poll.poll(0)
    return events[0][1] if events else 0
