"""The asyncio client of one endpoint: the blocking client's calls, made in threads of the client.

>>> async with AsyncClient("rag", region="us-east-1") as client:          # doctest: +SKIP
...     answer = await client.ask("Qual a capital do Brasil?")
...     async for event in client.stream("Qual a capital do Brasil?"): ...
...     async with client.session() as session: await session.ask("Quem escreveu Dom Casmurro?")

Why threads and not aiobotocore: its newest release, 3.10.0, needs botocore < 1.43.118 and so cannot be installed beside
the boto3 1.44.5 that `deploy` uses; alone it adds 11 packages to the client's 7. Threads add none.

Cancelling a task ends its wait at once and it is not retried, but a request that has been sent runs to the end in the
container; a stream is closed, which cancels it in the container, at its next event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

from rag_client.client import CONFIG, Client
from rag_client.conversation import Answer, SessionBase, answer_events, request_body
from rag_client.failures import CallFailed, SessionClosed
from rag_client.frames import Event
from rag_client.retry import Backoff

_Result = TypeVar("_Result")


class AsyncClient:
    """Asks one endpoint from coroutines, with Client's parameters, errors and retry rule. Close it at the end.

    As many calls run at once as boto3 keeps connections; further ones wait.
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
        self._client = Client(
            endpoint, region=region, endpoint_url=endpoint_url, patience_s=patience_s, runtime=runtime
        )
        self._threads = ThreadPoolExecutor(CONFIG.max_pool_connections, "rag-client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the threads; calls in flight end first, in the background."""
        self._threads.shutdown(wait=False)

    async def ask(self, query: str | None = None, **fields: Any) -> Answer:
        """The whole answer to `query`; `fields` are the request's other fields. Raises CallFailed."""
        return (await self.invoke(request_body(query, fields)))[0]

    def stream(self, query: str | None = None, **fields: Any) -> AsyncGenerator[Event, None]:
        """The events of the answer as they arrive; `aclose` cancels the request. Raises CallFailed."""
        return self.invoke_stream(request_body(query, fields))

    def session(self) -> AsyncSession:
        """A conversation that the container remembers; an async context manager."""
        return AsyncSession(self)

    async def invoke(self, body: Mapping[str, Any], **parameters: Any) -> tuple[Answer, Mapping[str, Any]]:
        """One InvokeEndpoint: (the answer, boto3's response with its headers). Raises CallFailed."""
        return await self._retried(lambda: self._client.invoke_once(body, parameters))

    async def invoke_stream(self, body: Mapping[str, Any], **parameters: Any) -> AsyncGenerator[Event, None]:
        """One InvokeEndpointWithResponseStream as events. Raises CallFailed."""
        parts = await self._retried(lambda: self._client.open_stream(body, parameters))
        events = self._client.events(parts)
        step = self._threads.submit(next, events, None)
        try:
            while (event := await asyncio.wrap_future(step)) is not None:
                yield event
                step = self._threads.submit(next, events, None)
        finally:  # at once, unless the task was cancelled while the thread waits for the next event
            step.add_done_callback(lambda _: parts.close())

    async def _retried(self, call: Callable[[], _Result]) -> _Result:
        backoff = Backoff(self._client.patience_s)
        while True:
            try:
                return await asyncio.wrap_future(self._threads.submit(call))
            except CallFailed as failure:
                wait_s = backoff.wait_s(failure)
            await asyncio.sleep(wait_s)


class AsyncSession(SessionBase):
    """Session for coroutines: the first `ask` opens it, leaving the async with block closes it. One turn at a time."""

    def __init__(self, client: AsyncClient) -> None:
        super().__init__()
        self._client = client

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(self, query: str | None = None, **fields: Any) -> Answer:
        """The next turn's answer. Raises CallFailed, SessionClosed where the session is over."""
        answer, response = await self._client.invoke(request_body(query, fields), **self._parameters())
        self._opened_by(response)
        return answer

    async def stream(self, query: str | None = None, **fields: Any) -> AsyncGenerator[Event, None]:
        """The next turn's events. Raises CallFailed, SessionClosed where the session is over."""
        if self.id is None:
            for event in answer_events(await self.ask(query, **fields)):
                yield event
            return
        events = self._client.invoke_stream(request_body(query, fields), **self._parameters())
        async with contextlib.aclosing(events):
            async for event in events:
                yield event

    async def close(self) -> None:
        """End the conversation and release its memory; does nothing where it was never opened or is over already."""
        parameters, was_open, self.id = self._parameters(), self.id is not None, None
        if was_open:
            with contextlib.suppress(SessionClosed):
                await self._client.invoke({"close_session": True}, **parameters)
