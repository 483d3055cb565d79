"""The two parts of a pipeline that services serve alone: retrieval, and the LLM with its ledger."""

from __future__ import annotations

from dataclasses import dataclass

from capacity import Plan
from rag.admission.admission import Usage
from rag.admission.admitted_generator import AdmittedGenerator
from rag.answering.pipeline import CANARY
from rag.engine.chat_tokenizer import PublishedTokenizer
from rag.interfaces import Embedder, KvUse, Message, Retriever, Sampling


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Embedder and retriever: what a vector service serves."""

    embedder: Embedder
    retriever: Retriever

    alive = True  # a forward pass that fails fails its caller; the embedder goes on
    draining = False  # a question is answered in milliseconds: the server lets it end

    def usage(self) -> Usage:
        """Nothing is reserved here."""
        return Usage(0, 0, 0, 0, 0, 0)

    def kv_use(self) -> KvUse:
        """No KV memory."""
        return KvUse(0, 0)

    def tend(self) -> None:
        """Nothing expires."""

    def revive(self) -> None:
        """Nothing dies."""

    def drain(self, grace_s: float) -> None:
        """Nothing lasts."""

    def close(self) -> None:
        """Stop the embedder."""
        self.embedder.close()


@dataclass(frozen=True, slots=True)
class Llm:
    """The generator with its ledger: what an LLM service serves. `tokenizer` is None where it can't be published."""

    generator: AdmittedGenerator
    tokenizer: PublishedTokenizer | None
    plan: Plan

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer, or of the model's name where it is not published."""
        return self.generator.name if self.tokenizer is None else self.tokenizer.fingerprint

    @property
    def alive(self) -> bool:
        """Whether the engine runs."""
        return self.generator.alive

    @property
    def draining(self) -> bool:
        """Whether `drain` was called."""
        return self.generator.admission.draining

    def usage(self) -> Usage:
        """The ledger as it stands."""
        return self.generator.admission.usage()

    def kv_use(self) -> KvUse:
        """The engine's memory as it is used."""
        return self.generator.kv_use

    def tend(self) -> None:
        """Close the sessions whose orchestrator is gone."""
        self.generator.sweep()

    def canary(self) -> None:
        """A few real tokens. Raises GenerationFailed where none come."""
        prompt_ids = self.generator.encode([Message("user", CANARY)])
        for _ in self.generator.generate(prompt_ids, Sampling(max_new_tokens=4)):
            pass

    def revive(self) -> None:
        """Start the engine over, without the sessions."""
        self.generator.revive()
        self.canary()

    def drain(self, grace_s: float) -> None:
        """Refuse new generations, and end those that still run after `grace_s` seconds."""
        self.generator.admission.drain(grace_s)

    def close(self) -> None:
        """Stop the engine."""
        self.generator.close()
