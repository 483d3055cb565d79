"""The composition root: settings in, a working Pipeline out. Heavy imports live inside the functions."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from rag.errors import GenerationFailed
from rag.pipeline import Pipeline
from rag.schema import Ask
from rag.seams import Sampling
from rag.settings import Settings

_log = logging.getLogger(__name__)


def load_pipeline(settings: Settings, on_phase: Callable[[str], None]) -> Pipeline:
    """Load embedder, index and LLM, then ask a real question. Raises ModelRefused or IndexRefused with the reason."""
    on_phase("importing")
    import torch

    torch.set_num_threads(settings.threads or _cores())
    from rag.embedding import SentenceTransformerEmbedder
    from rag.generation import TextGenerator, load_generator
    from rag.index import Index
    from rag.reranking import CrossEncoderReranker
    from rag.retrieval import HybridRetriever

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    on_phase("loading the embedder")
    embedder = SentenceTransformerEmbedder.load(
        settings.embedding_model, device=device, trust_remote_code=settings.trust_remote_code
    )
    on_phase("loading the index")
    index = Index.load(Path(settings.index), embedder)
    reranker = None
    if settings.reranker:
        on_phase("loading the reranker")
        reranker = CrossEncoderReranker.load(
            settings.reranker, device=device, trust_remote_code=settings.trust_remote_code
        )
    retriever = HybridRetriever(index, embedder, reranker=reranker)
    on_phase("loading the LLM")
    generator: TextGenerator = load_generator(
        settings.llm,
        dtype=settings.dtype,
        device=device,
        context_tokens=settings.context,
        concurrency=settings.concurrency,
        max_waiting=settings.queue,
        max_batch_tokens=settings.max_batch_tokens,
        trust_remote_code=settings.trust_remote_code,
    )
    pipeline = Pipeline(
        embedder,
        retriever,
        generator,
        default_top_k=settings.top_k,
        deadline_s=settings.deadline_s,
        stream_deadline_s=settings.stream_deadline_s,
    )
    on_phase("answering the canary")
    canary(pipeline)
    return pipeline


def canary(pipeline: Pipeline) -> None:
    """One real retrieve-and-generate, before /ping says 200. Raises GenerationFailed when nothing comes out."""
    answer = pipeline.answer(Ask(("Qual a capital do Brasil?",), sampling=Sampling(max_new_tokens=4)))
    if not answer.completion_tokens and answer.finish_reason != "stop":
        raise GenerationFailed("the canary question brought no token", value=answer.finish_reason)


def _cores() -> int:
    """Cores that this process may use: a container often sees more than it was given."""
    import os

    cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().strip().partition(" ")
        if allowed != "max":
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    return cores
