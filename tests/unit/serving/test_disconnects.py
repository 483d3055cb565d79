"""A client that hangs up is noticed while nothing is written to it."""

from __future__ import annotations

import socket
import threading

from rag.cancellation import Call
from rag.serving.disconnects import Hangups


def test_a_peer_that_closes_cancels_its_call_and_no_other() -> None:
    hangups, gone, there = Hangups(), Call(), Call()
    (server, client), (other_server, other_client) = socket.socketpair(), socket.socketpair()
    ended = threading.Event()
    gone.on_end(ended.set)
    hangups.watch(server, gone)
    hangups.watch(other_server, there)
    client.close()
    assert ended.wait(5)
    assert gone.cancelled
    assert not there.cancelled
    for end in (server, other_server, other_client):
        end.close()


def test_a_request_that_is_over_is_not_cancelled_when_its_client_leaves() -> None:
    hangups, over, next_one = Hangups(), Call(), Call()
    server, client = socket.socketpair()
    hangups.watch(server, over)
    hangups.forget(server)
    hangups.watch(server, next_one)  # the same connection, kept alive
    ended = threading.Event()
    next_one.on_end(ended.set)
    client.close()
    assert ended.wait(5)
    assert not over.cancelled
    server.close()


def test_data_that_arrives_is_no_hangup() -> None:
    hangups, call = Hangups(), Call()
    server, client = socket.socketpair()
    hangups.watch(server, call)
    client.sendall(b"x")
    ended = threading.Event()
    call.on_end(ended.set)
    assert not ended.wait(0.05)
    server.close()
    client.close()


def test_a_call_that_has_ended_tells_late_comers_at_once() -> None:
    call, told = Call(), []
    call.expire()
    call.cancel()
    call.on_end(lambda: told.append("now"))
    assert told == ["now"]
    assert call.expired
    assert not call.cancelled
