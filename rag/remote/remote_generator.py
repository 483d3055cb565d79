"""The generator over HTTP: one LLM on one or several LLM services.

Errors are those of a generator in this process: the service's own, unchanged, or Unreachable.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Sequence
from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json
from typing_extensions import override

from rag.engine.chat_tokenizer import ChatTokenizer
from rag.errors import NotReady, Overloaded, PromptTooLong, RagError, Unreachable, rebuilt
from rag.interfaces import Delta, DeltaStream, Generator, KvUse, Message, Sampling, Usage
from rag.remote import payloads
from rag.remote.http_client import LineStream, ServiceClient
from rag.remote.payloads import EncodeRequest, GenerateRequest, LlmDescription, TooLongRequest

Record = TypeVar("Record")
Refusal = TypeVar("Refusal", bound=RagError)

_log = logging.getLogger(__name__)

# The LLM service ends an answer at its deadline; only a service that hangs takes longer by this much.
_GRACE_S = 3.0
_NO_DEADLINE_S = 600.0


class RemoteGenerator(Generator):
    """One LLM on one or several services: each generation goes to the service with the fewest open ones.

    `assumed_model_len` limits questions until a service has reported its context.
    """

    def __init__(self, services: Sequence[ServiceClient], *, assumed_model_len: int) -> None:
        self._replicas = [_Replica(service) for service in services]
        self._assumed_model_len = assumed_model_len
        self._description: LlmDescription | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._session_replicas: dict[str, _Replica] = {}
        self._refreshing = threading.Lock()

    @property
    @override
    def name(self) -> str:
        """Raises NotReady until a service has answered once."""
        return self._known().name

    @property
    @override
    def max_model_len(self) -> int:
        return self._assumed_model_len if self._description is None else self._description.max_model_len

    @override
    def encode(self, messages: Sequence[Message]) -> list[int]:
        """With the services' tokenizer in this process, or else by a request to one of them."""
        self._known()
        if self._tokenizer is not None:
            return self._tokenizer.encode(messages)
        return self._encode_remotely(messages)

    @property
    @override
    def kv_use(self) -> KvUse:
        """The sum over the services; zeros for those that do not answer."""
        parts = self._ask_all("/kv_use", payloads.KV_USE)
        return KvUse(sum(part.used_blocks for part in parts), sum(part.reused_tokens for part in parts))

    def usage(self) -> Usage:
        """The sum over the services' ledgers; zeros for those that do not answer."""
        total = Usage()
        for part in self._ask_all("/usage", payloads.USAGE):
            total = Usage(
                total.total_blocks + part.total_blocks,
                total.reserved_blocks + part.reserved_blocks,
                part.block_bytes,
                total.requests + part.requests,
                total.sessions + part.sessions,
                total.waiting + part.waiting,
            )
        return total

    @override
    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> RemoteDeltas:
        """Where a service refuses, or the request did not reach it, the next one is tried."""
        request = GenerateRequest(tuple(prompt_ids), sampling, self._known().tokenizer, session)
        body = payloads.write(payloads.GENERATE_REQUEST, request)
        timeout_s = (_NO_DEADLINE_S if sampling.deadline_s is None else sampling.deadline_s) + _GRACE_S
        refusals: list[RagError] = []
        for replica in self._in_order(session):
            try:
                return RemoteDeltas(replica, replica.service.lines("/generate", body, timeout_s=timeout_s))
            except (NotReady, Overloaded) as error:
                if isinstance(error, Unreachable) and error.sent:
                    raise  # it may be generating
                if error.field == "tokenizer":  # the service runs another model now
                    self._description = None
                refusals.append(error)
        raise next((error for error in refusals if isinstance(error, Overloaded)), refusals[0])

    @override
    def open_session(self, session: str) -> None:
        """The session stays with the service that opens it."""
        refusals: list[RagError] = []
        for replica in self._in_order(None):
            try:
                replica.service.write("PUT", f"/sessions/{session}")
            except (NotReady, Overloaded) as error:
                refusals.append(error)
            else:
                self._session_replicas[session] = replica
                return
        raise refusals[-1]

    @override
    def close_session(self, session: str) -> None:
        """A service that can't be reached closes it after a while."""
        replica = self._session_replicas.pop(session, None)
        if replica is not None:
            with contextlib.suppress(RagError):
                replica.service.write("DELETE", f"/sessions/{session}")

    def busy(self) -> Overloaded:
        """A service's refusal when it has no place. Raises RagError where none answers."""
        return self._refusal("GET", "/refusals/busy", None, Overloaded)

    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """A service's refusal of a request of this size. Raises RagError where none answers."""
        body = payloads.write(payloads.TOO_LONG_REQUEST, TooLongRequest(prompt_tokens, new_tokens, allow_long))
        return self._refusal("POST", "/refusals/too_long", body, PromptTooLong)

    def refresh(self) -> None:
        """Ask the services for their description, and fetch the tokenizer if it is new. Raises NotReady, Failed or
        Unreachable where none is ready."""
        failure: RagError | None = None
        found: LlmDescription | None = None
        for replica in self._replicas:
            try:
                description = payloads.read_reply(payloads.LLM_DESCRIPTION, replica.service.health())
            except NotReady as error:
                failure = failure or error
                continue
            if found is not None and description != found:
                _log.warning("%s serves %s, but another service %s", replica.service.url, description, found)
            found = found or description
        if found is None:
            assert failure is not None, "there is at least one service"
            raise failure
        with self._refreshing:
            if self._description is None or self._description.tokenizer != found.tokenizer:
                self._tokenizer = self._fetched_tokenizer()
            self._description = found

    @override
    def close(self) -> None:
        """Close the connections; the services go on."""
        for replica in self._replicas:
            replica.service.close()

    def _known(self) -> LlmDescription:
        description = self._description
        if description is None:
            self.refresh()
            description = self._description
        assert description is not None, "refresh() sets it or raises"
        return description

    def _fetched_tokenizer(self) -> ChatTokenizer | None:
        """The services' tokenizer if it gives the same ids in this process, else None."""
        try:
            tokenizer = ChatTokenizer.read(payloads.read_reply(payloads.TOKENIZER, self._read("GET", "/tokenizer")))
            same = tokenizer.encodes_as(self._encode_remotely)
        except NotReady:
            raise
        except Exception as error:  # a template that the sandbox refuses, or that refuses a role
            _log.warning("prompts are encoded by the LLM service, one request each: %s", error)
            return None
        if not same:
            _log.warning("prompts are encoded by the LLM service, one request each: its tokenizer gives other ids here")
        return tokenizer if same else None

    def _encode_remotely(self, messages: Sequence[Message]) -> list[int]:
        body = payloads.write(payloads.ENCODE_REQUEST, EncodeRequest(tuple(messages)))
        return payloads.read_reply(payloads.TOKEN_IDS, self._read("POST", "/encode", body))

    def _in_order(self, session: str | None) -> list[_Replica]:
        """The services to try: the session's, or all, the least busy first."""
        own = self._session_replicas.get(session) if session is not None else None
        return [own] if own is not None else sorted(self._replicas, key=lambda replica: replica.open)

    def _ask_all(self, path: str, record: TypeAdapter[Record]) -> list[Record]:
        answers = []
        for replica in self._replicas:
            with contextlib.suppress(RagError):
                answers.append(payloads.read_reply(record, replica.service.read("GET", path)))
        return answers

    def _refusal(self, method: str, path: str, body: bytes | None, kind: type[Refusal]) -> Refusal:
        refusal = rebuilt(from_json(self._read(method, path, body)))
        if not isinstance(refusal, kind):
            raise refusal
        return refusal

    def _read(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """From the first service that answers."""
        *others, last = self._in_order(None)
        for replica in others:
            try:
                return replica.service.read(method, path, body)
            except NotReady:
                continue
        return last.service.read(method, path, body)


class RemoteDeltas(DeltaStream):
    """The deltas of one generation, as they arrive. Closing it early cancels it in the service before the next step."""

    def __init__(self, replica: _Replica, lines: LineStream) -> None:
        self._replica = replica
        self._lines = lines
        self._done = False
        self._over = threading.Lock()
        replica.opened()

    @override
    def __iter__(self) -> RemoteDeltas:
        return self

    @override
    def __next__(self) -> Delta:
        """Raises Unreachable where the stream ends too early."""
        if self._done:
            raise StopIteration
        try:
            delta = self._next()
        except BaseException:
            self.close()
            raise
        if delta.finish_reason is not None:
            self.close()
        return delta

    @override
    def close(self) -> None:
        with self._over:
            if self._done:
                return
            self._done = True
        self._lines.close()
        self._replica.closed()

    def _next(self) -> Delta:
        for line in self._lines:
            delta = payloads.read_delta(line)
            if delta is not None:
                if delta.finish_reason is not None:
                    self._lines.finish()
                return delta
        if self._done:
            return Delta("", 0, "cancelled")
        raise self._replica.service.unreachable("its answer ended too early", sent=True)


class _Replica:
    """A service and the number of its open generations."""

    def __init__(self, service: ServiceClient) -> None:
        self.service = service
        self.open = 0
        self._lock = threading.Lock()

    def opened(self) -> None:
        with self._lock:
            self.open += 1

    def closed(self) -> None:
        with self._lock:
            self.open -= 1
