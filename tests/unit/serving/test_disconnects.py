"""A disconnected client is detected while nothing is written to it."""

from __future__ import annotations

import socket
import threading

from rag.cancellation import Call
from rag.serving.disconnects import DisconnectWatcher


def test_a_disconnect_cancels_its_call_and_no_other() -> None:
    watcher, gone, connected = DisconnectWatcher(), Call(), Call()
    (server, client), (other_server, other_client) = socket.socketpair(), socket.socketpair()
    ended = threading.Event()
    gone.on_end(ended.set)
    watcher.watch(server, gone)
    watcher.watch(other_server, connected)
    client.close()
    assert ended.wait(5)
    assert gone.cancelled
    assert not connected.cancelled
    for end in (server, other_server, other_client):
        end.close()


def test_a_request_that_has_ended_is_not_cancelled_when_its_client_disconnects() -> None:
    watcher, over, next_one = DisconnectWatcher(), Call(), Call()
    server, client = socket.socketpair()
    watcher.watch(server, over)
    watcher.unwatch(server)
    watcher.watch(server, next_one)  # the same connection, kept alive
    ended = threading.Event()
    next_one.on_end(ended.set)
    client.close()
    assert ended.wait(5)
    assert not over.cancelled
    server.close()


def test_data_that_arrives_is_no_disconnect() -> None:
    watcher, call = DisconnectWatcher(), Call()
    server, client = socket.socketpair()
    watcher.watch(server, call)
    client.sendall(b"x")
    ended = threading.Event()
    call.on_end(ended.set)
    assert not ended.wait(0.05)
    server.close()
    client.close()


def test_a_callback_added_after_the_end_runs_at_once() -> None:
    call, run = Call(), []
    call.expire()
    call.cancel()
    call.on_end(lambda: run.append("now"))
    assert run == ["now"]
    assert call.expired
    assert not call.cancelled
