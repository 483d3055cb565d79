"""A disconnected client is detected while nothing is written to it."""

from __future__ import annotations

import socket
import threading

import pytest

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


def test_a_client_that_has_only_closed_its_sending_side_gets_its_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    watcher, call, ended = DisconnectWatcher(), Call(), threading.Event()
    call.on_end(ended.set)
    watcher.watch(server, call)
    client.shutdown(socket.SHUT_WR)
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"  # which asks whether it still reads
    assert not ended.wait(0.1)
    client.close()
    server.send(b"x")  # a closed peer answers with a reset
    assert ended.wait(5)
    server.close()


def test_nothing_is_sent_beside_a_response_that_has_begun() -> None:
    watcher, call = DisconnectWatcher(), Call()
    server, client = socket.socketpair()
    watcher.watch(server, call)
    watcher.response_begins(server)
    client.shutdown(socket.SHUT_WR)
    client.settimeout(0.1)
    with pytest.raises(TimeoutError):
        client.recv(1)
    assert not call.cancelled
    server.close()
    client.close()


def test_an_event_of_a_socket_that_was_closed_meanwhile_does_not_cancel_the_next_with_its_number() -> None:
    """The watcher is late: between its poll and its lock the request ends and the number is given to another client."""
    watcher, call = DisconnectWatcher(), Call()
    server, client = socket.socketpair()
    watcher.watch(server, call)
    assert watcher._disconnected(server.fileno()) is None
    assert not call.cancelled
    client.close()
    assert watcher._disconnected(server.fileno()) in (call, None)  # None where the thread was faster
    server.close()
