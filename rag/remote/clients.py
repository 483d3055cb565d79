"""The three seams over HTTP: a pipeline whose embedder, retriever and generator live in other processes.

The pipeline can't tell; what it is told in place of an answer is Unreachable or the service's own error, unchanged.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import TypeAdapter
from pydantic_core import from_json

from rag.admission.admission import Usage
from rag.engine.chat_tokenizer import ChatTokenizer
from rag.errors import NotReady, Overloaded, PromptTooLong, RagError, Unreachable, rebuilt
from rag.interfaces import Delta, KvUse, Message, Passage, Sampling, Scalar, Vectors
from rag.remote import payloads
from rag.remote.http_client import Lines, Service
from rag.remote.payloads import EmbedCall, EncodeCall, GenerateCall, LlmFacts, RetrieveCall, TooLongCall, VectorFacts

Record = TypeVar("Record")
Refusal = TypeVar("Refusal", bound=RagError)

_log = logging.getLogger(__name__)

# An answer ends by its own deadline in the LLM service; only a service that hangs lets this much more pass.
_GRACE_S = 3.0
_NO_DEADLINE_S = 600.0


class RemoteEmbedder:
    """The vector service's embedder."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._facts: VectorFacts | None = None

    @property
    def name(self) -> str:
        """See Embedder.name. Raises NotReady while the service has not told it."""
        return self._known().name

    @property
    def dimension(self) -> int:
        """See Embedder.dimension. Raises NotReady while the service has not told it."""
        return self._known().dimension

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """See Embedder.embed_queries."""
        body = payloads.write(payloads.EMBED_CALL, EmbedCall(tuple(texts)))
        return payloads.read_vectors(self._service.read("POST", "/embed", body))

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Nobody embeds passages over HTTP: an index is built where the embedder is."""
        raise NotImplementedError("passages are embedded by `python -m rag.build_index`")

    def learn(self) -> None:
        """Ask the service what it is. Raises NotReady, Failed or Unreachable."""
        self._facts = payloads.read_reply(payloads.VECTOR_FACTS, self._service.health())

    def close(self) -> None:
        """Close the connections; the service stays."""
        self._service.close()

    def _known(self) -> VectorFacts:
        if self._facts is None:
            self.learn()
        assert self._facts is not None, "learn() sets them or raises"
        return self._facts


class RemoteRetriever:
    """The vector service's retriever."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def retrieve(
        self,
        question: str,
        *,
        top_k: int,
        filters: Mapping[str, Scalar | Sequence[Scalar]] | None = None,
        min_score: float | None = None,
    ) -> list[Passage]:
        """See Retriever.retrieve."""
        plain = None if filters is None else {name: _plain(value) for name, value in filters.items()}
        body = payloads.write(payloads.RETRIEVE_CALL, RetrieveCall(question, top_k, plain, min_score))
        return payloads.read_reply(payloads.PASSAGES, self._service.read("POST", "/retrieve", body))


class RemoteGenerator:
    """One LLM behind one or several services of the same model: a generation goes where the fewest are open.

    `assumed_model_len` bounds questions until a service has told its own context.
    """

    alive = True  # whether a service answers changes; see Generator.alive for what this promises

    def __init__(self, services: Sequence[Service], *, assumed_model_len: int) -> None:
        self._replicas = [_Replica(service) for service in services]
        self._assumed_model_len = assumed_model_len
        self._facts: LlmFacts | None = None
        self._tokenizer: ChatTokenizer | None = None
        self._homes: dict[str, _Replica] = {}
        self._learning = threading.Lock()

    @property
    def name(self) -> str:
        """See Generator.name. Raises NotReady while no service has told it."""
        return self._known().name

    @property
    def max_model_len(self) -> int:
        """See Generator.max_model_len."""
        return self._assumed_model_len if self._facts is None else self._facts.max_model_len

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """See Generator.encode. With the services' own tokenizer in this process, or else by asking one of them."""
        self._known()
        if self._tokenizer is not None:
            return self._tokenizer.encode(messages)
        return self._ask_to_encode(messages)

    @property
    def kv_use(self) -> KvUse:
        """The services' together; zeros for those that can't be asked."""
        parts = self._ask_all("/kv_use", payloads.KV_USE)
        return KvUse(sum(part.used_blocks for part in parts), sum(part.reused_tokens for part in parts))

    def usage(self) -> Usage:
        """The services' ledgers together; zeros for those that can't be asked."""
        total = Usage(0, 0, 0, 0, 0, 0)
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

    def generate(self, prompt_ids: Sequence[int], sampling: Sampling, session: str | None = None) -> RemoteDeltas:
        """See Generator.generate. A service that refuses, or that nothing reached, is passed over for the next."""
        call = GenerateCall(tuple(prompt_ids), sampling, self._known().tokenizer, session)
        body = payloads.write(payloads.GENERATE_CALL, call)
        silence_s = (_NO_DEADLINE_S if sampling.deadline_s is None else sampling.deadline_s) + _GRACE_S
        refusals: list[RagError] = []
        for replica in self._in_order(session):
            try:
                return RemoteDeltas(replica, replica.service.lines("/generate", body, silence_s=silence_s))
            except (NotReady, Overloaded) as error:
                if isinstance(error, Unreachable) and error.sent:
                    raise  # it may be generating
                if error.field == "tokenizer":  # the service was exchanged for one with another model
                    self._facts = None
                refusals.append(error)
        raise next((error for error in refusals if isinstance(error, Overloaded)), refusals[0])

    def open_session(self, session: str) -> None:
        """See Generator.open_session. The session stays with the service that opens it."""
        refusals: list[RagError] = []
        for replica in self._in_order(None):
            try:
                replica.service.write("PUT", f"/sessions/{session}")
            except (NotReady, Overloaded) as error:
                refusals.append(error)
            else:
                self._homes[session] = replica
                return
        raise refusals[-1]

    def close_session(self, session: str) -> None:
        """See Generator.close_session. A service that can't be reached closes it by itself after a while."""
        replica = self._homes.pop(session, None)
        if replica is not None:
            with contextlib.suppress(RagError):
                replica.service.write("DELETE", f"/sessions/{session}")

    def revive(self) -> None:
        """Never called: see `alive`. A service starts its engine over by itself."""

    def busy(self) -> Overloaded:
        """A service's own words for having no place. Raises RagError where none can be asked."""
        return self._told_refusal("GET", "/refusals/busy", None, Overloaded)

    def too_long(self, prompt_tokens: int, new_tokens: int, *, allow_long: bool) -> PromptTooLong:
        """A service's own words for a request of this size. Raises RagError where none can be asked."""
        body = payloads.write(payloads.TOO_LONG_CALL, TooLongCall(prompt_tokens, new_tokens, allow_long))
        return self._told_refusal("POST", "/refusals/too_long", body, PromptTooLong)

    def learn(self) -> None:
        """Ask the services what they are, and fetch the tokenizer where it is new. Raises NotReady, Failed or
        Unreachable where none is ready."""
        failure: RagError | None = None
        found: LlmFacts | None = None
        for replica in self._replicas:
            try:
                facts = payloads.read_reply(payloads.LLM_FACTS, replica.service.health())
            except NotReady as error:
                failure = failure or error
                continue
            if found is not None and facts != found:
                _log.warning("%s serves %s, another one %s", replica.service.url, facts, found)
            found = found or facts
        if found is None:
            assert failure is not None, "there is at least one service"
            raise failure
        with self._learning:
            if self._facts is None or self._facts.tokenizer != found.tokenizer:
                self._tokenizer = self._fetched_tokenizer()
            self._facts = found

    def close(self) -> None:
        """Close the connections; the services stay."""
        for replica in self._replicas:
            replica.service.close()

    def _known(self) -> LlmFacts:
        facts = self._facts
        if facts is None:
            self.learn()
            facts = self._facts
        assert facts is not None, "learn() sets them or raises"
        return facts

    def _fetched_tokenizer(self) -> ChatTokenizer | None:
        """The services' tokenizer if it encodes here as it does there, else None."""
        try:
            tokenizer = ChatTokenizer.read(payloads.read_reply(payloads.TOKENIZER, self._read("GET", "/tokenizer")))
            same = tokenizer.encodes_as(self._ask_to_encode)
        except NotReady:
            raise
        except Exception as error:  # a template that is not for this sandbox, roles that it does not know
            _log.warning("prompts are encoded by the LLM service, a hop each: %s", error)
            return None
        if not same:
            _log.warning("prompts are encoded by the LLM service, a hop each: its tokenizer gives other ids here")
        return tokenizer if same else None

    def _ask_to_encode(self, messages: Sequence[Message]) -> list[int]:
        body = payloads.write(payloads.ENCODE_CALL, EncodeCall(tuple(messages)))
        return payloads.read_reply(payloads.TOKEN_IDS, self._read("POST", "/encode", body))

    def _in_order(self, session: str | None) -> list[_Replica]:
        """The services to try: the session's own, or all, the least busy first."""
        home = self._homes.get(session) if session is not None else None
        return [home] if home is not None else sorted(self._replicas, key=lambda replica: replica.open)

    def _ask_all(self, path: str, record: TypeAdapter[Record]) -> list[Record]:
        answers = []
        for replica in self._replicas:
            with contextlib.suppress(RagError):
                answers.append(payloads.read_reply(record, replica.service.read("GET", path)))
        return answers

    def _told_refusal(self, method: str, path: str, body: bytes | None, kind: type[Refusal]) -> Refusal:
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


class RemoteDeltas:
    """The deltas of one generation, as they come. Closing it early cancels it in the service before its next step."""

    def __init__(self, replica: _Replica, lines: Lines) -> None:
        self._replica = replica
        self._lines = lines
        self._done = False
        self._over = threading.Lock()
        replica.opened()

    def __iter__(self) -> RemoteDeltas:
        return self

    def __next__(self) -> Delta:
        """See DeltaStream. A stream that breaks off raises Unreachable."""
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

    def close(self) -> None:
        """Cancel if still running. May be called again, and by another thread than the one that iterates."""
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
        raise self._replica.service.broke("its answer has no end", sent=True)


class _Replica:
    """A service, and how many generations are open there."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.open = 0
        self._lock = threading.Lock()

    def opened(self) -> None:
        with self._lock:
            self.open += 1

    def closed(self) -> None:
        with self._lock:
            self.open -= 1


def _plain(value: Scalar | Sequence[Scalar]) -> Scalar | list[Scalar]:
    return value if isinstance(value, str | int | float | bool) else list(value)
