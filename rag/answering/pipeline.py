"""The steps of a request: admit → retrieve → write the prompt → generate → check that the answer is grounded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

from typing_extensions import override

from rag.admission.admission import Admission, Permit
from rag.answering import prompt
from rag.answering.ask import Ask
from rag.answering.run import Answer, FixedText, Run, StageTimes
from rag.answering.sessions import Conversation, Sessions, Turn
from rag.cancellation import Call
from rag.errors import GenerationFailed, PromptTooLong
from rag.interfaces import (
    DeltaStream,
    Generator,
    KvUse,
    Language,
    LocalGenerator,
    Message,
    Passage,
    QueryEmbedder,
    Retriever,
    Sampling,
    Servable,
    Usage,
    Vectors,
)
from rag.language import detect_language

CANARY = "Qual a capital do Brasil?"

# No tokenizer makes fewer tokens than one per this many characters, and no chat template fewer than one per message:
# what is far too long is refused without tokenizing it.
_MOST_CHARACTERS_A_TOKEN = 32


@dataclass(frozen=True, slots=True)
class Embedding:
    """Unit vectors (texts, dimension) and the model that made them."""

    vectors: Vectors
    model: str


@dataclass(frozen=True, slots=True)
class PipelineOptions:
    """Defaults for what a request leaves open, and time limits in seconds."""

    top_k: int
    min_score: float
    deadline_s: float
    stream_deadline_s: float
    session_s: float
    session_idle_s: float


class Pipeline(Servable):
    """Embedder, retriever and generator, here or in other processes, behind admission."""

    def __init__(
        self,
        embedder: QueryEmbedder,
        retriever: Retriever,
        generator: Generator,
        admission: Admission,
        options: PipelineOptions,
    ) -> None:
        self.embedder = embedder
        self.retriever = retriever
        self.generator = generator
        self.admission = admission
        self.sessions = Sessions(admission, generator, lifetime_s=options.session_s, idle_s=options.session_idle_s)
        self._options = options

    @property
    @override
    def draining(self) -> bool:
        return self.admission.draining

    @override
    def usage(self) -> Usage:
        return self.admission.usage()

    @override
    def kv_use(self) -> KvUse:
        return self.generator.kv_use

    @override
    def sweep(self) -> None:
        self.sessions.sweep()

    def embed(self, ask: Ask) -> Embedding:
        """The vectors of the texts, embedded as queries."""
        return Embedding(self.embedder.embed_queries(ask.texts), self.embedder.name)

    def retrieve(self, ask: Ask) -> list[Passage]:
        """The passages for the question, best first; none in the generate mode."""
        if ask.mode == "generate":
            return []
        self._refuse_far_too_long(ask)
        # The retrieve mode returns them all; a prompt is better without passages of little relevance.
        min_score = self._options.min_score if ask.min_score is None and ask.mode == "answer" else ask.min_score
        return self.retriever.retrieve(
            ask.question,
            top_k=ask.top_k or self._options.top_k,
            filters=ask.filters or None,
            min_score=min_score,
        )

    def answer(self, ask: Ask, call: Call | None = None, session: Conversation | None = None) -> Answer:
        """The whole answer."""
        *_, last = self.start(ask, call, session)
        assert isinstance(last, Answer), "a run ends in its answer or raises"
        return last

    def start(self, ask: Ask, call: Call | None = None, session: Conversation | None = None) -> Run:
        """Do everything that can be refused, and begin to generate. After this the run can fail, but not be refused.

        `session` is one that `sessions.begin` returned; the end of the run ends the request in it.
        """
        with ExitStack() as held:
            if session is not None:
                held.callback(self.sessions.end, session)
            run = self._start(ask, call or Call(), session, held)
            resources = held.pop_all()

        def ended(answer: Answer | None) -> None:
            if session is not None and answer is not None and answer.finish_reason != "cancelled":
                *_, prompted = prompt.write_messages(ask.question, run.passages, answer.language)
                session.remember(Turn(ask.question, prompted, answer.text), self._most_characters)
            resources.close()

        run.on_end(ended)
        return run

    def _start(self, ask: Ask, call: Call, session: Conversation | None, held: ExitStack) -> Run:
        times = StageTimes()
        self._refuse_far_too_long(ask)
        deadline_s = self._options.stream_deadline_s if ask.stream else self._options.deadline_s
        writer = self._writer(ask, session)
        # Without passages the real size is known before the reservation; with them, only its maximum.
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
        times.lap("queue_s")
        passages = self.retrieve(ask)
        times.lap("retrieve_s")
        written = written or writer(passages)
        if permit is not None:
            permit.shrink(len(written.ids) + ask.sampling.max_new_tokens)
        left_s = call.left_s(deadline_s)
        self.admission.check_deadline(len(written.ids), ask.sampling.max_new_tokens, left_s)
        times.lap("prompt_s")
        deltas: DeltaStream
        if ask.mode == "answer" and not passages:
            deltas = FixedText(prompt.NOT_IN_PASSAGES[writer.language])  # without passages there is nothing to generate
        else:
            sampling = replace(ask.sampling, deadline_s=left_s)
            deltas = self.generator.generate(written.ids, sampling, session.id if session else None)
        return Run(deltas, written, lambda: writer.language, self.generator.name, times, call)

    def _writer(self, ask: Ask, session: Conversation | None) -> _PromptWriter:
        # A session has reserved a whole context already, so the governed context does not apply to it.
        allow_long = ask.allow_long_context or session is not None
        return _PromptWriter(ask, session, self.generator.encode, self.admission, allow_long=allow_long)

    def canary(self) -> None:
        """One real retrieve-and-generate. Raises GenerationFailed when no token comes."""
        answer = self.answer(Ask((CANARY,), Sampling(max_new_tokens=4)))
        if not answer.completion_tokens and answer.finish_reason != "stop":
            raise GenerationFailed("the canary question generated no token", value=answer.finish_reason)

    @override
    def drain(self, grace_s: float) -> None:
        self.admission.drain(grace_s)

    @override
    def close(self) -> None:
        self.generator.close()
        self.embedder.close()

    @property
    def _most_characters(self) -> int:
        return self.generator.max_model_len * _MOST_CHARACTERS_A_TOKEN

    def _refuse_far_too_long(self, ask: Ask) -> None:
        most = self._most_characters
        size = len(ask.question) + sum(max(len(turn.content), _MOST_CHARACTERS_A_TOKEN) for turn in ask.history)
        if size > most:
            raise PromptTooLong(
                f"the question{' and its history have' if ask.history else ' has'} {size} characters; a context of "
                f"{self.generator.max_model_len} tokens never has more than {most}",
                field="messages" if ask.history else "query",
                value=f"{size} characters",
                limit=f"{most} characters",
                remedy="shorten the question or its history, or deploy with a larger CONTEXT",
            )


class LocalPipeline(Pipeline):
    """The pipeline over an engine in this process, which can die and be restarted."""

    def __init__(
        self,
        embedder: QueryEmbedder,
        retriever: Retriever,
        generator: LocalGenerator,
        admission: Admission,
        options: PipelineOptions,
    ) -> None:
        super().__init__(embedder, retriever, generator, admission, options)
        self._engine = generator

    @property
    @override
    def alive(self) -> bool:
        return self._engine.alive

    @override
    def revive(self) -> None:
        """The open sessions are lost."""
        self.sessions.close_all()
        self._engine.revive()
        self.canary()


class _PromptWriter:
    """Writes the prompt of one request within the tokens that the deployment leaves for it."""

    def __init__(
        self, ask: Ask, session: Conversation | None, encode: prompt.Encode, admission: Admission, *, allow_long: bool
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
        """The question's, detected when it is first needed: a prompt without passages does not wait for it."""
        return self._ask.language or detect_language(self._ask.question)

    def __call__(self, passages: list[Passage]) -> prompt.Prompt:
        """Raises PromptTooLong, with changes that would help."""
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
                language=self.language if passages else "pt",  # without passages it is not used
                history=history,
            )
        except PromptTooLong as error:
            raise self._too_long(history) from error

    def _too_long(self, history: Sequence[Message]) -> PromptTooLong:
        bare = self._encode(prompt.write_messages(self._ask.question, (), self.language, history))
        return self._admission.too_long(len(bare), self._ask.sampling.max_new_tokens, allow_long=self._allow_long)
