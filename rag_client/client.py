"""Ask an endpoint: plain, streamed, or in a session: boto3 with the time-outs and retries that the contract needs.

>>> client = Client("rag", region="us-east-1")                            # doctest: +SKIP
>>> client.ask("Qual a capital do Brasil?")["text"]                       # doctest: +SKIP
>>> for event in client.stream("Qual a capital do Brasil?"): ...          # doctest: +SKIP
>>> with client.session() as session: session.ask("Quem escreveu Dom Casmurro?")   # doctest: +SKIP

Errors: rag_client/failures.py. Answers and events are the container's JSON objects, described in the README.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Self, TypeVar

import boto3
from botocore.config import Config
from botocore.eventstream import ParserError
from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from rag_client.failures import CallFailed, SessionClosed, StreamBroken, from_boto, from_event
from rag_client.frames import Event, EventReader

Answer = dict[str, Any]
_Result = TypeVar("_Result")

# boto3's own retries would make one slow call several: none of them, and an answer may take the platform's 60 s.
CONFIG = Config(
    connect_timeout=5, read_timeout=70, retries={"total_max_attempts": 1}, max_pool_connections=64, tcp_keepalive=True
)
_JSON, _JSON_LINES = "application/json", "application/jsonlines"
_NEW_SESSION = "NEW_SESSION"


class Client:
    """Asks one endpoint. Safe to share between threads, as boto3's clients are.

    A call that the server calls retryable is made again, after the time that it names (else 0.5, 1, 2 … s), until
    `patience_s` is over; nothing else is ever sent twice. `runtime` is a ready boto3 client in place of one made here.
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
        """The whole answer to `query`; `fields` are the request's others (top_k=…, mode=…, or inputs=…, messages=…).

        Raises CallFailed.
        """
        return self.invoke(_body(query, fields))[0]

    def stream(self, query: str | None = None, **fields: Any) -> Generator[Event, None, None]:
        """The events of the answer as they come: sources, text …, end. Closing the iterator cancels the request.

        A refusal is raised at the first event; a break later is raised as StreamBroken. Raises CallFailed.
        """
        return self.invoke_stream(_body(query, fields))

    def session(self) -> Session:
        """A conversation that the container remembers; a context manager."""
        return Session(self)

    def invoke(self, body: Mapping[str, Any], **parameters: Any) -> tuple[Answer, Mapping[str, Any]]:
        """One InvokeEndpoint: (the answer, boto3's response with its headers). Raises CallFailed."""

        def call() -> tuple[Answer, Mapping[str, Any]]:
            response = self._runtime.invoke_endpoint(
                EndpointName=self.endpoint, ContentType=_JSON, Accept=_JSON, Body=json.dumps(body), **parameters
            )
            return json.loads(response["Body"].read() or b"{}"), response

        return self._retried(call)

    def invoke_stream(self, body: Mapping[str, Any], **parameters: Any) -> Generator[Event, None, None]:
        """One InvokeEndpointWithResponseStream as events. Raises CallFailed."""

        def call() -> Any:
            return self._runtime.invoke_endpoint_with_response_stream(
                EndpointName=self.endpoint, ContentType=_JSON, Accept=_JSON_LINES, Body=json.dumps(body), **parameters
            )["Body"]

        with contextlib.closing(self._retried(call)) as parts:
            try:
                yield from _events(parts)
            except (BotoCoreError, ClientError, ParserError, HTTPError, OSError) as error:
                raise from_boto(error, self.endpoint) from error
            except ValueError as error:
                raise StreamBroken(f"{self.endpoint}: a line of the stream is no JSON: {error}") from error

    def _retried(self, call: Callable[[], _Result]) -> _Result:
        end, pause_s = time.monotonic() + self.patience_s, 0.5
        while True:
            try:
                return call()
            except (BotoCoreError, ClientError, HTTPError, OSError) as error:
                failure = from_boto(error, self.endpoint)
                wait_s = failure.retry_after_s or pause_s * random.uniform(0.5, 1.0)
                if not failure.retryable or time.monotonic() + wait_s > end:
                    raise failure from error
            except ValueError as error:
                raise CallFailed(f"{self.endpoint}: the answer is no JSON: {error}") from error
            time.sleep(wait_s)
            pause_s *= 2


class Session:
    """A conversation: the container keeps what was said. The first `ask` opens it, leaving the with block closes it.

    `id` and `expires` are the container's, once it is open. A session cannot begin in a stream, so a first turn that is
    streamed comes as a whole. Use it from one thread at a time.
    """

    def __init__(self, client: Client) -> None:
        self.id: str | None = None
        self.expires: datetime | None = None
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, query: str | None = None, **fields: Any) -> Answer:
        """The next turn's answer. Raises CallFailed, SessionClosed where the session is over."""
        body = _body(query, fields)
        if self.id is not None:
            return self._client.invoke(body, SessionId=self.id)[0]
        answer, response = self._client.invoke(body, SessionId=_NEW_SESSION)
        self.id, self.expires = _opened(str(response.get("NewSessionId", "")))
        return answer

    def stream(self, query: str | None = None, **fields: Any) -> Generator[Event, None, None]:
        """The next turn's events. Raises CallFailed, SessionClosed where the session is over."""
        if self.id is not None:
            yield from self._client.invoke_stream(_body(query, fields), SessionId=self.id)
            return
        answer = self.ask(query, **fields)
        yield {"type": "sources", "id": answer.get("id"), "sources": answer.get("sources", [])}
        yield {"type": "text", "text": answer.get("text", "")}
        yield {"type": "end", **answer}

    def close(self) -> None:
        """End the conversation and give its memory back; nothing where it was never opened or is over already."""
        session_id, self.id = self.id, None
        if session_id is not None:
            with contextlib.suppress(SessionClosed):
                self._client.invoke({"close_session": True}, SessionId=session_id)


def _events(parts: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
    """The events of the parts; raises StreamBroken for an error event, and where the last one is missing."""
    reader, unfinished = EventReader(), False
    pieces = (reader.feed(part["PayloadPart"]["Bytes"]) for part in parts)
    for event in chain(chain.from_iterable(pieces), _late(reader)):
        if event.get("type") == "error":
            raise from_event(event)
        unfinished = event.get("type", "end") != "end"  # the other two shapes name no types
        yield event
    if unfinished:
        raise StreamBroken("the stream stopped before its last event")


def _late(reader: EventReader) -> Iterator[Event]:
    yield from reader.close()


def _body(query: str | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    return dict(fields) if query is None else {"query": query, **fields}


def _opened(told: str) -> tuple[str, datetime | None]:
    """(id, when it expires) from "<id>; Expires=YYYY-MM-DDTHH:MM:SSZ"."""
    session_id, _, rest = told.partition(";")
    if not session_id:
        raise CallFailed("the container opened no session: it answered without a session id")
    name, _, moment = rest.strip().partition("=")
    expires = datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC) if name == "Expires" else None
    return session_id.strip(), expires
