"""The two parts of a pipeline that the services serve: retrieval, and the LLM with its admission ledger."""

from __future__ import annotations

from dataclasses import dataclass

from typing_extensions import override

from capacity import Plan
from rag.admission.admitted_generator import AdmittedGenerator
from rag.answering.pipeline import CANARY
from rag.engine.chat_tokenizer import PublishedTokenizer
from rag.interfaces import KvUse, Message, QueryEmbedder, Retriever, Sampling, Servable, Usage


@dataclass(frozen=True)
class Retrieval(Servable):
    """What a vector service serves. Questions take milliseconds and hold no memory: there is nothing to drain."""

    embedder: QueryEmbedder
    retriever: Retriever

    @override
    def close(self) -> None:
        self.embedder.close()


@dataclass(frozen=True)
class Llm(Servable):
    """What an LLM service serves. `tokenizer` is None where it can't be published."""

    generator: AdmittedGenerator
    tokenizer: PublishedTokenizer | None
    plan: Plan

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer, or the model's name where it is not published."""
        return self.generator.name if self.tokenizer is None else self.tokenizer.fingerprint

    @property
    @override
    def alive(self) -> bool:
        return self.generator.alive

    @property
    @override
    def draining(self) -> bool:
        return self.generator.admission.draining

    @override
    def usage(self) -> Usage:
        return self.generator.admission.usage()

    @override
    def kv_use(self) -> KvUse:
        return self.generator.kv_use

    @override
    def sweep(self) -> None:
        self.generator.sweep()

    def canary(self) -> None:
        """Generate a few real tokens. Raises GenerationFailed where that fails."""
        prompt_ids = self.generator.encode([Message("user", CANARY)])
        for _ in self.generator.generate(prompt_ids, Sampling(max_new_tokens=4)):
            pass

    @override
    def revive(self) -> None:
        self.generator.revive()
        self.canary()

    @override
    def drain(self, grace_s: float) -> None:
        self.generator.admission.drain(grace_s)

    @override
    def close(self) -> None:
        self.generator.close()
