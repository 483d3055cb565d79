"""The vector and the LLM service over fakes, on real sockets of this process."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

from microservices import llm_service, vector_service
from rag.admission.admission import Admission
from rag.admission.admitted_generator import AdmittedGenerator
from rag.engine.chat_tokenizer import PublishedTokenizer
from rag.remote.servables import Llm, Retrieval
from rag.serving.lifecycle import Boot
from tests.fakes import FakeEmbedder, FakeGenerator, FakeRetriever, fake_admission


class _Http11(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: Any) -> None:
        """Quiet."""


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """The URL of `app` on a free loopback port."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Http11)
    server.daemon_threads = True  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


def ready(loaded: Any) -> Boot[Any]:
    """A Boot that has loaded."""
    boot: Boot[Any] = Boot(lambda _: loaded)
    boot.start()
    boot.join()
    return boot


def vector_app(retriever: Any = None) -> Flask:
    """A vector service over fakes."""
    return vector_service.create_app(ready(Retrieval(FakeEmbedder(), retriever or FakeRetriever())))


def llm_app(
    generator: FakeGenerator, tokenizer: PublishedTokenizer | None = None, admission: Admission | None = None
) -> Flask:
    """An LLM service over a fake generator, with a ledger for 8 of its contexts."""
    plan: Any = None
    admitted = AdmittedGenerator(generator, admission or fake_admission(), idle_s=600)
    return llm_service.create_app(ready(Llm(admitted, tokenizer, plan)))


@contextmanager
def scripted_server(script: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that reads the first bytes of each connection and then runs `script` on it, valid HTTP or not."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if connection.recv(65536):
                        script(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def fake_generator(*pieces: Any) -> FakeGenerator:
    """A FakeGenerator with these pieces."""
    generator = FakeGenerator()
    generator.pieces = pieces or generator.pieces
    return generator
