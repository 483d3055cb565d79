"""The asyncio client against the stand-in: what the blocking client does, without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest

from deploy.local.runtime import LocalRuntime
from rag_client import AsyncClient
from rag_client.failures import CallFailed, DoesNotFit, Overloaded, ServerFailed, SessionClosed, StreamBroken
from tests.unit.deploy.conftest import ENDPOINT
from tests.unit.deploy.fake_container import FakeContainer

_Result = TypeVar("_Result")


@pytest.fixture
def run(runtime: LocalRuntime) -> Callable[..., Any]:
    """Runs a coroutine function with a client of the stand-in."""

    def run(use: Callable[[AsyncClient], Awaitable[_Result]], patience_s: float = 2.0) -> _Result:
        async def main() -> _Result:
            async with AsyncClient(ENDPOINT, endpoint_url=runtime.url, patience_s=patience_s) as client:
                return await use(client)

        return asyncio.run(main())

    return run


async def collected(client: AsyncClient, **fields: Any) -> list[dict[str, Any]]:
    return [event async for event in client.stream(**fields)]


def test_ask_and_stream_give_the_container_s_answer(run: Callable[..., Any], container: FakeContainer) -> None:
    assert run(lambda client: client.ask("Qual a capital?", top_k=2))["text"] == "Brasília: Qual a capital?"
    assert container.requests == [{"query": "Qual a capital?", "top_k": 2}]
    assert run(lambda client: collected(client, query="é ou não é?")) == container.events("é ou não é?")


def test_calls_run_at_the_same_time_and_the_event_loop_stays_free(run: Callable[..., Any]) -> None:
    async def use(client: AsyncClient) -> tuple[list[str], int]:
        began, turns = time.monotonic(), 0
        tasks = asyncio.gather(*(client.ask("q", sleep_s=0.2) for _ in range(8)))
        while not tasks.done():
            turns += 1
            await asyncio.sleep(0.01)
        assert time.monotonic() - began < 8 * 0.2
        return [answer["text"] for answer in await tasks], turns

    texts, turns = run(use)
    assert texts == ["Brasília: q"] * 8
    assert turns > 5


@pytest.mark.parametrize(
    "call",
    [lambda client, **fields: client.ask(**fields), collected],
    ids=["ask", "stream"],
)
def test_a_refusal_is_the_same_typed_error(run: Callable[..., Any], call: Any) -> None:
    error = {"code": "does_not_fit", "message": "short by 1 GiB", "retryable": False}
    with pytest.raises(DoesNotFit, match="short by 1 GiB") as raised:
        run(lambda client: call(client, refuse=422, error=error))
    assert (raised.value.status, raised.value.document) == (422, error)


def test_only_what_the_server_calls_retryable_is_asked_again(run: Callable[..., Any], container: FakeContainer) -> None:
    container.busy = 2
    assert run(lambda client: client.ask("q"))["text"] == "Brasília: q"
    assert len(container.requests) == 3
    container.busy = 1
    assert run(lambda client: collected(client, query="q")) == container.events("q")
    del container.requests[:]
    with pytest.raises(ServerFailed):
        run(lambda client: client.ask("q", refuse=500, error={"code": "internal", "message": "no", "retryable": False}))
    assert len(container.requests) == 1
    container.busy = 1000
    with pytest.raises(Overloaded):
        run(lambda client: client.ask("q"), patience_s=0.3)


def test_a_cancelled_task_is_not_retried(run: Callable[..., Any], container: FakeContainer) -> None:
    container.busy = 1000

    async def use(client: AsyncClient) -> int:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.ask("q"), 0.2)
        asked = len(container.requests)
        await asyncio.sleep(0.2)
        return len(container.requests) - asked

    assert run(use, patience_s=60) <= 1  # the one that was being sent


def test_a_stream_that_breaks_says_so_after_what_came(run: Callable[..., Any]) -> None:
    seen = []

    async def use(client: AsyncClient) -> None:
        async for event in client.stream(pieces=['{"type": "text", "text": "a"}\n']):
            seen.append(event)

    with pytest.raises(StreamBroken, match="before its last event"):
        run(use)
    assert seen == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize("cancel", ["close", "cancel"])
def test_a_stream_that_is_left_is_cancelled_in_the_container(
    run: Callable[..., Any], container: FakeContainer, cancel: str
) -> None:
    pieces = ['{"type": "text", "text": "' + "x" * 200_000 + '"}\n'] * 50

    async def read(client: AsyncClient, first: asyncio.Event) -> None:
        async with contextlib.aclosing(client.stream(pieces=pieces, pause_s=0.01)) as events:
            async for _ in events:
                first.set()
                if cancel == "close":
                    break

    async def use(client: AsyncClient) -> None:
        first = asyncio.Event()
        task = asyncio.create_task(read(client, first))
        await first.wait()
        if cancel == "cancel":
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run(use)
    assert container.client_left.wait(5)


def test_a_session_keeps_the_conversation_and_closes_itself(run: Callable[..., Any], container: FakeContainer) -> None:
    async def use(client: AsyncClient) -> None:
        async with client.session() as session:
            assert [event["type"] async for event in session.stream("um")] == ["sources", "text", "end"]
            assert (session.id, session.expires) == ("s1", datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
            assert (await session.ask("dois"))["text"] == "um / dois"
            assert [event["type"] async for event in session.stream("três")][-1] == "end"
            assert container.sessions == {"s1": ["um", "dois", "três"]}
        assert container.sessions == {}
        assert session.id is None
        async with client.session() as session:
            await session.ask("um")
            container.sessions.clear()
            with pytest.raises(SessionClosed):
                await session.ask("dois")

    run(use)


def test_without_an_endpoint_the_error_is_typed(runtime: LocalRuntime) -> None:
    async def ask() -> None:
        async with AsyncClient("other", endpoint_url=runtime.url) as client:
            await client.ask("q")

    with pytest.raises(CallFailed, match="other: Endpoint other"):
        asyncio.run(ask())
