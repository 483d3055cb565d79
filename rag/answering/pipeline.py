"""The story of a request: admit → retrieve → write the prompt → generate → see whether the answer is grounded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

from rag.admission.admission import Admission, Permit, Usage
from rag.answering import prompt
from rag.answering.ask import Ask
from rag.answering.run import Answer, Clock, Run, Said
from rag.answering.sessions import Session, Sessions, Turn
from rag.cancellation import Call
from rag.errors import GenerationFailed, PromptTooLong
from rag.interfaces import (
    DeltaStream,
    Embedder,
    Generator,
    KvUse,
    Language,
    Message,
    Passage,
    Retriever,
    Sampling,
    Vectors,
)
from rag.language import detect_language

CANARY = "Qual a capital do Brasil?"

# No tokenizer makes fewer tokens than one in this many characters of text; it bounds the work on a hopeless question.
_MOST_CHARACTERS_A_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Embedding:
    """Unit vectors (texts, dimension) and the model that made them."""

    vectors: Vectors
    model: str


class Pipeline:
    """The building blocks in a row. It can't tell whether they live in this process."""

    def __init__(
        self,
        embedder: Embedder,
        retriever: Retriever,
        generator: Generator,
        admission: Admission,
        sessions: Sessions,
        *,
        default_top_k: int,
        default_min_score: float,
        deadline_s: float,
        stream_deadline_s: float,
    ) -> None:
        self.embedder = embedder
        self.retriever = retriever
        self.generator = generator
        self.admission = admission
        self.sessions = sessions
        self._default_top_k = default_top_k
        self._default_min_score = default_min_score
        self._deadline_s = deadline_s
        self._stream_deadline_s = stream_deadline_s

    @property
    def alive(self) -> bool:
        """Whether answers can be generated; once False it stays so until `revive`."""
        return self.generator.alive

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self.admission.draining

    def usage(self) -> Usage:
        """The ledger as it stands."""
        return self.admission.usage()

    def kv_use(self) -> KvUse:
        """The generator's memory as it is used."""
        return self.generator.kv_use

    def tend(self) -> None:
        """Close the sessions that have expired."""
        self.sessions.sweep()

    def embed(self, ask: Ask) -> Embedding:
        """The vectors of the texts, as queries are embedded."""
        return Embedding(self.embedder.embed_queries(ask.texts), self.embedder.name)

    def retrieve(self, ask: Ask) -> list[Passage]:
        """The passages that the question brings up, best first; none in the generate mode."""
        if ask.mode == "generate":
            return []
        self._refuse_hopeless(ask.question)
        # Who asks for passages sees them all; a prompt is better off without those that have little to do with it.
        min_score = self._default_min_score if ask.min_score is None and ask.mode == "answer" else ask.min_score
        return self.retriever.retrieve(
            ask.question,
            top_k=ask.top_k or self._default_top_k,
            filters=ask.filters or None,
            min_score=min_score,
        )

    def answer(self, ask: Ask, call: Call | None = None, session: Session | None = None) -> Answer:
        """The whole answer at once."""
        *_, last = self.start(ask, call, session)
        assert isinstance(last, Answer), "a run ends in its answer or raises"
        return last

    def start(self, ask: Ask, call: Call | None = None, session: Session | None = None) -> Run:
        """Do all that can be refused, and begin to generate. From here on the run can break but not be refused.

        `session` is one that `sessions.begin` returned; the run ends the call in it.
        """
        with ExitStack() as held:
            if session is not None:
                held.callback(self.sessions.end, session)
            run = self._start(ask, call or Call(), session, held)
            given_back = held.pop_all()

        def ended(answer: Answer | None) -> None:
            if session is not None and answer is not None and answer.finish_reason != "cancelled":
                *_, prompted = prompt.write_messages(ask.question, run.passages, answer.language)
                session.turns.append(Turn(ask.question, prompted, answer.text))
            given_back.close()

        run.on_end(ended)
        return run

    def _start(self, ask: Ask, call: Call, session: Session | None, held: ExitStack) -> Run:
        clock = Clock()
        self._refuse_hopeless(ask.question)
        deadline_s = self._stream_deadline_s if ask.stream else self._deadline_s
        writer = self._writer(ask, session)
        # Without passages the real size is known before anything is reserved; with them, only the most it may be.
        written = writer([]) if ask.mode == "generate" else None
        permit: Permit | None = None
        if session is None:
            permit = self.admission.admit(
                writer.max_prompt_tokens if written is None else len(written.ids),
                ask.sampling.max_new_tokens,
                call,
                deadline_s=deadline_s,
                allow_long=ask.allow_long_context,
            )
            held.callback(permit.release)
        clock.lap("queue_s")
        passages = self.retrieve(ask)
        clock.lap("retrieve_s")
        written = written or writer(passages)
        if permit is not None:
            permit.shrink(len(written.ids) + ask.sampling.max_new_tokens)
        left_s = call.left_s(deadline_s)
        self.admission.refuse_endless(len(written.ids), ask.sampling.max_new_tokens, left_s)
        clock.lap("prompt_s")
        deltas: DeltaStream
        if ask.mode == "answer" and not passages:
            deltas = Said(prompt.NOT_IN_PASSAGES[writer.language])  # nothing to answer from, so nothing to compute
        else:
            sampling = replace(ask.sampling, deadline_s=left_s)
            deltas = self.generator.generate(written.ids, sampling, session.id if session else None)
        return Run(deltas, written, lambda: writer.language, self.generator.name, clock, call)

    def _writer(self, ask: Ask, session: Session | None) -> _Writer:
        # A session holds a whole context already, so the governed share of it is no matter there.
        allow_long = ask.allow_long_context or session is not None
        return _Writer(ask, session, self.generator.encode, self.admission, allow_long=allow_long)

    def canary(self) -> None:
        """One real retrieve-and-generate. Raises GenerationFailed when nothing comes out."""
        answer = self.answer(Ask((CANARY,), Sampling(max_new_tokens=4)))
        if not answer.completion_tokens and answer.finish_reason != "stop":
            raise GenerationFailed("the canary question brought no token", value=answer.finish_reason)

    def revive(self) -> None:
        """After the generator has died: start it over, without the sessions, and put a question to it."""
        self.sessions.close_all()
        self.generator.revive()
        self.canary()

    def drain(self, grace_s: float) -> None:
        """Refuse new work from now on, and end what still runs after `grace_s` seconds."""
        self.admission.drain(grace_s)

    def close(self) -> None:
        """Stop what runs behind the seams."""
        self.generator.close()
        self.embedder.close()

    def _refuse_hopeless(self, question: str) -> None:
        most = self.generator.max_model_len * _MOST_CHARACTERS_A_TOKEN
        if len(question) > most:
            raise PromptTooLong(
                f"the question has {len(question)} characters; a context of {self.generator.max_model_len} tokens "
                f"never holds more than {most}",
                field="query",
                value=f"{len(question)} characters",
                limit=f"{most} characters",
                remedy="shorten the question, or deploy with a larger CONTEXT",
            )


class _Writer:
    """Writes the prompt of one request within what the deployment leaves for it."""

    def __init__(
        self, ask: Ask, session: Session | None, encode: prompt.Encode, admission: Admission, *, allow_long: bool
    ) -> None:
        self.max_prompt_tokens = admission.limit_tokens(allow_long=allow_long) - ask.sampling.max_new_tokens
        self._ask = ask
        self._session = session
        self._encode = encode
        self._admission = admission
        self._allow_long = allow_long
        if self.max_prompt_tokens < 1:
            raise self._too_long(ask.history)

    @cached_property
    def language(self) -> Language:
        """The question's. Found when it is needed: a bare prompt doesn't wait for it."""
        return self._ask.language or detect_language(self._ask.question)

    def __call__(self, passages: list[Passage]) -> prompt.Prompt:
        """Raises PromptTooLong, with what would help."""
        question = self._ask.question
        history: Sequence[Message] = self._ask.history
        if self._session is not None and not history:
            history = self._session.history(
                question,
                passages,
                encode=self._encode,
                max_prompt_tokens=self.max_prompt_tokens,
                language=self.language,
            )
        try:
            return prompt.build(
                question,
                passages,
                encode=self._encode,
                max_prompt_tokens=self.max_prompt_tokens,
                language=self.language if passages else "pt",  # where there are none, none of our words are either
                history=history,
            )
        except PromptTooLong as error:
            raise self._too_long(history) from error

    def _too_long(self, history: Sequence[Message]) -> PromptTooLong:
        bare = self._encode(prompt.write_messages(self._ask.question, (), self.language, history))
        return self._admission.too_long(len(bare), self._ask.sampling.max_new_tokens, allow_long=self._allow_long)
