"""The blocking client of one endpoint: whole answers, streams and sessions, over boto3.

>>> client = Client("rag", region="us-east-1")                            # doctest: +SKIP
>>> client.ask("Qual a capital do Brasil?")["text"]                       # doctest: +SKIP
>>> for event in client.stream("Qual a capital do Brasil?"): ...          # doctest: +SKIP
>>> with client.session() as session: session.ask("Quem escreveu Dom Casmurro?")   # doctest: +SKIP

Errors: rag_client/failures.py. Answers and events are the container's JSON objects, described in the README.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from rag_client.conversation import Answer, SessionBase, answer_events, request_body
from rag_client.failures import CallFailed, SessionClosed, StreamBroken, from_boto, from_event, translated
from rag_client.frames import Event, read_events
from rag_client.retry import Backoff

_Result = TypeVar("_Result")

# An answer may take the platform's 60 s. boto3's own retries are off: they would repeat a slow call.
CONFIG = Config(
    connect_timeout=5, read_timeout=70, retries={"total_max_attempts": 1}, max_pool_connections=64, tcp_keepalive=True
)
_JSON, _JSON_LINES = "application/json", "application/jsonlines"


class Client:
    """Asks one endpoint. Safe to share between threads, as boto3's clients are.

    A call is repeated only if the server says that it is retryable: after the time that the server names (else 0.5, 1,
    2 … s), for at most `patience_s`. `runtime` is an existing boto3 client to use.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        region: str | None = None,
        endpoint_url: str | None = None,
        patience_s: float = 30.0,
        runtime: Any = None,
    ) -> None:
        self.endpoint = endpoint
        self.patience_s = patience_s
        try:
            self._runtime = runtime or boto3.client(
                "sagemaker-runtime", region_name=region, endpoint_url=endpoint_url, config=CONFIG
            )
        except BotoCoreError as error:
            raise from_boto(error, endpoint) from error

    def ask(self, query: str | None = None, **fields: Any) -> Answer:
        """The whole answer to `query`; `fields` are the request's other fields (top_k=…, mode=…, inputs=…, messages=…).

        Raises CallFailed.
        """
        return self.invoke(request_body(query, fields))[0]

    def stream(self, query: str | None = None, **fields: Any) -> Generator[Event, None, None]:
        """The events of the answer as they arrive: sources, text …, end. Closing the iterator cancels the request.

        A refusal is raised at the first event; a stream that breaks off later raises StreamBroken. Raises CallFailed.
        """
        return self.invoke_stream(request_body(query, fields))

    def session(self) -> Session:
        """A conversation that the container remembers; a context manager."""
        return Session(self)

    def invoke(self, body: Mapping[str, Any], **parameters: Any) -> tuple[Answer, Mapping[str, Any]]:
        """One InvokeEndpoint: (the answer, boto3's response with its headers). Raises CallFailed."""
        return self._retried(lambda: self.invoke_once(body, parameters))

    def invoke_stream(self, body: Mapping[str, Any], **parameters: Any) -> Generator[Event, None, None]:
        """One InvokeEndpointWithResponseStream as events. Raises CallFailed."""
        yield from self.events(self._retried(lambda: self.open_stream(body, parameters)))

    def invoke_once(self, body: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[Answer, Mapping[str, Any]]:
        """`invoke` without a retry. Raises CallFailed."""
        with translated(self.endpoint, not_json=CallFailed):
            response = self._runtime.invoke_endpoint(
                EndpointName=self.endpoint, ContentType=_JSON, Accept=_JSON, Body=json.dumps(body), **parameters
            )
            return json.loads(response["Body"].read() or b"{}"), response

    def open_stream(self, body: Mapping[str, Any], parameters: Mapping[str, Any]) -> Any:
        """boto3's parts of a stream, for `events`; without a retry. Raises CallFailed."""
        with translated(self.endpoint, not_json=CallFailed):
            return self._runtime.invoke_endpoint_with_response_stream(
                EndpointName=self.endpoint, ContentType=_JSON, Accept=_JSON_LINES, Body=json.dumps(body), **parameters
            )["Body"]

    def events(self, parts: Any) -> Generator[Event, None, None]:
        """The events in boto3's parts, which are closed at the end. Raises CallFailed."""
        with contextlib.closing(parts), translated(self.endpoint, not_json=StreamBroken):
            yield from _events(parts)

    def _retried(self, call: Callable[[], _Result]) -> _Result:
        backoff = Backoff(self.patience_s)
        while True:
            try:
                return call()
            except CallFailed as failure:
                wait_s = backoff.wait_s(failure)
            time.sleep(wait_s)


class Session(SessionBase):
    """A conversation that the container keeps. The first `ask` opens it, leaving the with block closes it.

    A session cannot be opened by a stream, so a first turn that is streamed arrives as a whole. Not safe to share
    between threads.
    """

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, query: str | None = None, **fields: Any) -> Answer:
        """The next turn's answer. Raises CallFailed, SessionClosed where the session is over."""
        answer, response = self._client.invoke(request_body(query, fields), **self._parameters())
        self._opened_by(response)
        return answer

    def stream(self, query: str | None = None, **fields: Any) -> Generator[Event, None, None]:
        """The next turn's events. Raises CallFailed, SessionClosed where the session is over."""
        if self.id is None:
            yield from answer_events(self.ask(query, **fields))
        else:
            yield from self._client.invoke_stream(request_body(query, fields), **self._parameters())

    def close(self) -> None:
        """End the conversation and release its memory; does nothing where it was never opened or is over already."""
        parameters, was_open, self.id = self._parameters(), self.id is not None, None
        if was_open:
            with contextlib.suppress(SessionClosed):
                self._client.invoke({"close_session": True}, **parameters)


def _events(parts: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """The events of the parts. Raises StreamBroken for an error event, and where the last event is missing."""
    unfinished = False
    for event in read_events(part["PayloadPart"]["Bytes"] for part in parts):
        if event.get("type") == "error":
            raise from_event(event)
        unfinished = event.get("type", "end") != "end"  # the other two request shapes have events without a type
        yield event
    if unfinished:
        raise StreamBroken("the stream stopped before its last event")
