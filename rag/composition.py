"""The composition root: settings to a working pipeline, or to the part of it that one service serves.

Heavy imports live inside the functions.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from capacity import Measured, Plan
from rag import artifact
from rag.admission.admitted_generator import AdmittedGenerator
from rag.admission.ledger_admission import Budget, LedgerAdmission
from rag.answering.pipeline import CANARY, LocalPipeline, Pipeline, PipelineOptions
from rag.errors import BackendRefused, Failed
from rag.planning import make_plan, planned_backend, recheck
from rag.process.imports import import_libraries
from rag.process.process_memory import resident_bytes, trim_memory
from rag.remote.retrieval_plan import make_retrieval_plan
from rag.remote.servables import Llm, Retrieval
from rag.settings import Settings

if TYPE_CHECKING:
    from rag.embedding.adapter import LocalEmbedder
    from rag.engine.engine import Engine
    from rag.engine.generator import TextGenerator

_log = logging.getLogger(__name__)

# The LLM service closes an idle session this much later than its orchestrator, in case that is gone.
_ORPHAN_S = 60.0


def load_pipeline(settings: Settings, on_phase: Callable[[str], None]) -> Pipeline:
    """Plan, load embedder, index and LLM, ask a real question, and compare the plan with the memory used.

    Raises ArtifactRefused for a damaged file and DoesNotFit before anything is loaded, ModelRefused or IndexRefused
    with the reason.
    """
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_plan(settings)
    device, threads, context_bytes = _import_libraries(settings, on_phase)
    retrieval = _load_retrieval(settings, device, on_phase)
    settings, plan, generator = _load_llm(settings, plan, device, threads, on_phase)
    admission = make_admission(settings, plan, generator.engine)
    options = pipeline_options(settings)
    pipeline = LocalPipeline(retrieval.embedder, retrieval.retriever, generator, admission, options)
    on_phase("answering the canary")
    pipeline.canary()
    compare_with_plan(settings, plan, generator.engine, context_bytes)
    return pipeline


def load_retrieval(settings: Settings, on_phase: Callable[[str], None]) -> Retrieval:
    """The vector service: embedder and index by a plan for these, and a real retrieval. Raises as load_pipeline."""
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_retrieval_plan(settings)
    device, _, _ = _import_libraries(settings, on_phase)
    retrieval = _load_retrieval(settings, device, on_phase)
    on_phase("answering the canary")
    retrieval.retriever.retrieve(CANARY, top_k=settings.top_k)
    trim_memory()
    measured = {"runtime": resident_bytes() - plan.need_bytes["embedder"] - plan.need_bytes["index"]}
    figures = {"planned": dict(plan.need_bytes), "have_bytes": plan.have_bytes, "measured": measured}
    _log.info(json.dumps({"event": "plan", **figures}))
    return retrieval


def load_llm(settings: Settings, on_phase: Callable[[str], None]) -> Llm:
    """The LLM service: the LLM by a plan for it, and a real generation. Raises as load_pipeline."""
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_plan(settings, with_retrieval=False)
    device, threads, context_bytes = _import_libraries(settings, on_phase)
    settings, plan, generator = _load_llm(settings, plan, device, threads, on_phase, with_retrieval=False)
    admission = make_admission(settings, plan, generator.engine)
    admitted = AdmittedGenerator(generator, admission, idle_s=settings.session_idle_s + _ORPHAN_S)
    llm = Llm(admitted, generator.published_tokenizer(), plan)
    on_phase("answering the canary")
    llm.canary()
    compare_with_plan(settings, plan, generator.engine, context_bytes, with_retrieval=False)
    return llm


def pipeline_options(settings: Settings) -> PipelineOptions:
    """The settings that a pipeline needs."""
    return PipelineOptions(
        top_k=settings.top_k,
        min_score=settings.min_score,
        deadline_s=settings.deadline_s,
        stream_deadline_s=settings.stream_deadline_s,
        session_s=settings.session_s,
        session_idle_s=settings.session_idle_s,
    )


def _import_libraries(settings: Settings, on_phase: Callable[[str], None]) -> tuple[str, int, int | None]:
    """The device, its compute threads, and the bytes of the GPU context (None on a CPU)."""
    on_phase("importing")
    import_libraries(with_retrieval=settings.variant != "llm")
    import torch

    threads = settings.threads or cores()
    torch.set_num_threads(threads)
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return device, threads, _context_bytes(device)


def load_embedder(settings: Settings, device: str) -> LocalEmbedder:
    """The embedder of the settings, with its adapter. Raises ModelRefused."""
    from rag.embedding.adapter import load_adapter
    from rag.embedding.sentence_transformer import SentenceTransformerEmbedder

    embedder = SentenceTransformerEmbedder.load(
        settings.embedding_model,
        device=device,
        query_prefix=settings.query_prefix,
        passage_prefix=settings.passage_prefix,
        trust_remote_code=settings.trust_remote_code,
    )
    return load_adapter(Path(settings.adapter), embedder) if settings.adapter else embedder


def _load_retrieval(settings: Settings, device: str, on_phase: Callable[[str], None]) -> Retrieval:
    from rag.retrieval.fusion import ENGLISH_EMBEDDER, MULTILINGUAL_EMBEDDER, Fusion
    from rag.retrieval.hybrid import HybridRetriever
    from rag.retrieval.index import Index
    from rag.retrieval.reranking import CrossEncoderReranker

    on_phase("loading the embedder")
    embedder = load_embedder(settings, device)
    on_phase("loading the index")
    index = Index.load(Path(settings.index), embedder)
    reranker = None
    if settings.reranker:
        on_phase("loading the reranker")
        reranker = CrossEncoderReranker.load(
            settings.reranker, device=device, trust_remote_code=settings.trust_remote_code
        )
    weights = MULTILINGUAL_EMBEDDER if embedder.reads_portuguese() else ENGLISH_EMBEDDER
    return Retrieval(embedder, HybridRetriever(index, embedder, fusion=Fusion(embedder, weights), reranker=reranker))


def make_admission(settings: Settings, plan: Plan, engine: Engine) -> LedgerAdmission:
    """A ledger over the Plan's blocks, connected to the engine's measured rates and out-of-memory events."""
    budget = Budget(
        sequences=plan.max_sequences,
        num_blocks=plan.num_blocks,
        block_tokens=engine.backend.block_size,
        block_bytes=plan.kv_bytes // max(1, plan.num_blocks),
        context_tokens=plan.max_model_len,
    )
    admission = LedgerAdmission(
        budget,
        max_waiting=settings.queue,
        longest_wait_s=settings.queue_s,
        governed_tokens=settings.governed_context,
        long_share=settings.long_context_share,
        rates=engine.rates,
    )

    def shrink_ledger() -> None:
        left = admission.lose_a_session()
        _log.warning(json.dumps({"event": "out_of_memory", "sessions_left": left}))

    engine.on_out_of_memory = shrink_ledger
    return admission


def _load_llm(
    settings: Settings,
    plan: Plan,
    device: str,
    threads: int,
    on_phase: Callable[[str], None],
    *,
    with_retrieval: bool = True,
) -> tuple[Settings, Plan, TextGenerator]:
    """The LLM on the planned backend; with BACKEND=auto, on torch by a new plan if that backend refuses the model."""
    from rag.engine.loading import EngineConfig, load_generator

    def load() -> TextGenerator:
        on_phase("loading the LLM")
        config = EngineConfig(
            settings.llm,
            num_blocks=plan.num_blocks,
            max_waiting=settings.places,  # admission has the queue; the engine's bridges the step that frees memory
            context_tokens=plan.max_model_len,
            max_batch_tokens=settings.max_batch_tokens,
            device=device,
            dtype=settings.dtype,
            backend=chosen.name,
            weights=settings.weights,
            kv_dtype=settings.kv_dtype,
            threads=threads,
            trust_remote_code=settings.trust_remote_code,
        )
        return load_generator(config, on_phase)

    chosen = planned_backend(settings)
    if chosen.reason is not None:
        _log.info("BACKEND=auto: torch runs the LLM, since %s", chosen.reason)
    try:
        return settings, plan, load()
    except BackendRefused as error:
        if settings.backend != "auto":
            raise
        _log.warning("BACKEND=auto: %s (%s). The plan is made again for torch", error.message, error.value)
    settings = settings.model_copy(update={"backend": "torch"})
    plan, chosen = make_plan(settings, with_retrieval=with_retrieval), planned_backend(settings)
    return settings, plan, load()


def _verify_artifact(settings: Settings, on_phase: Callable[[str], None]) -> None:
    """Check every file of the artifact, where there is one, against its manifest. Raises ArtifactRefused."""
    if not settings.artifact:
        return
    on_phase("verifying the artifact")
    began = time.monotonic()
    size_bytes = artifact.verify(Path(settings.artifact))
    _log.info(json.dumps({"event": "artifact", "bytes": size_bytes, "verify_s": round(time.monotonic() - began, 3)}))


def compare_with_plan(
    settings: Settings, plan: Plan, engine: Engine, context_bytes: int | None, *, with_retrieval: bool = True
) -> None:
    """Compare `plan` with the memory used, and log both. Raises Failed where the KV bytes differ from the plan's.

    `context_bytes` is the size of the GPU context. On a CPU it is None: the runtime is the resident memory once all is
    loaded and has answered, less the other terms of the plan.
    """
    if engine.kv_bytes != plan.kv_bytes:
        raise Failed(
            "the engine's KV memory differs from the plan's",
            field="kv_bytes",
            value=engine.kv_bytes,
            limit=plan.kv_bytes,
            remedy="report this with the model's config.json: the capacity model is wrong about it",
        )
    runtime_bytes = context_bytes
    if runtime_bytes is None:
        trim_memory()
        counted_bytes = sum(term.bytes for term in plan.terms if term.name != "runtime")
        runtime_bytes = max(0, resident_bytes() - counted_bytes)
    measured = recheck(
        settings,
        plan,
        Measured(weights_bytes=engine.backend.weights_bytes, runtime_bytes=runtime_bytes),
        with_retrieval=with_retrieval,
    )
    figures = {
        "planned": dict(plan.need_bytes),
        "measured": dict(measured.need_bytes),
        "difference": {name: measured.need_bytes[name] - need for name, need in plan.need_bytes.items()},
    }
    sizes = {"sessions": plan.concurrency, "context_tokens": plan.max_model_len, "kv_blocks": plan.num_blocks}
    _log.info(json.dumps({"event": "plan", **sizes, "have_bytes": plan.have_bytes, **figures}))


def _context_bytes(device: str) -> int | None:
    """The memory of the GPU context, before any model is loaded."""
    if device == "cpu":
        return None
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return total_bytes - free_bytes


def cores() -> int:
    """Cores that this process may use: a container often sees more than its CPU quota."""
    cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().strip().partition(" ")
        if allowed != "max":
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    return cores
