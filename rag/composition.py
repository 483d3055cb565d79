"""The composition root: settings in, a working Pipeline out, or the part of one that a service serves alone.

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
from rag.admission.admission import Admission, Budget
from rag.admission.admitted_generator import AdmittedGenerator
from rag.answering.pipeline import CANARY, Pipeline
from rag.answering.sessions import Sessions
from rag.errors import BackendRefused, Failed
from rag.interfaces import Embedder, Generator, Retriever
from rag.planning import make_plan, planned_backend, recheck
from rag.process.imports import import_libraries
from rag.process.process_memory import give_back, resident_bytes
from rag.remote.retrieval_plan import make_retrieval_plan
from rag.remote.servables import Llm, Retrieval
from rag.settings import Settings

if TYPE_CHECKING:
    from rag.embedding.adapter import LocalEmbedder
    from rag.engine.engine import Engine
    from rag.engine.generator import TextGenerator

_log = logging.getLogger(__name__)

# A session that its orchestrator has forgotten is closed this much later than the orchestrator would have.
_ORPHAN_S = 60.0


def load_pipeline(settings: Settings, on_phase: Callable[[str], None]) -> Pipeline:
    """Plan, load embedder, index and LLM, hold the plan to what that took, then ask a real question.

    Raises ArtifactRefused for a damaged file and DoesNotFit before anything is loaded, ModelRefused or IndexRefused
    with the reason.
    """
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_plan(settings)
    device, threads, context_bytes = _import_libraries(settings, on_phase)
    retrieval = _load_retrieval(settings, device, on_phase)
    settings, plan, generator = _load_llm(settings, plan, device, threads, on_phase)
    admission = admission_of(settings, plan, generator.engine)
    pipeline = make_pipeline(settings, retrieval.embedder, retrieval.retriever, generator, admission)
    on_phase("answering the canary")
    pipeline.canary()
    compare_with_plan(settings, plan, generator.engine, context_bytes)
    return pipeline


def load_retrieval(settings: Settings, on_phase: Callable[[str], None]) -> Retrieval:
    """Embedder and index alone, on a plan of their own, and a real retrieval. Raises as load_pipeline does."""
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_retrieval_plan(settings)
    device, _, _ = _import_libraries(settings, on_phase)
    retrieval = _load_retrieval(settings, device, on_phase)
    on_phase("answering the canary")
    retrieval.retriever.retrieve(CANARY, top_k=settings.top_k)
    give_back()
    measured = {"runtime": resident_bytes() - plan.need_bytes["embedder"] - plan.need_bytes["index"]}
    told = {"planned": dict(plan.need_bytes), "have_bytes": plan.have_bytes, "measured": measured}
    _log.info(json.dumps({"event": "plan", **told}))
    return retrieval


def load_llm(settings: Settings, on_phase: Callable[[str], None]) -> Llm:
    """The LLM alone, on a plan of its own, and a real generation. Raises as load_pipeline does."""
    _verify_artifact(settings, on_phase)
    on_phase("planning")
    plan = make_plan(settings, with_retrieval=False)
    device, threads, context_bytes = _import_libraries(settings, on_phase)
    settings, plan, generator = _load_llm(settings, plan, device, threads, on_phase, with_retrieval=False)
    admission = admission_of(settings, plan, generator.engine)
    admitted = AdmittedGenerator(generator, admission, idle_s=settings.session_idle_s + _ORPHAN_S)
    llm = Llm(admitted, generator.published_tokenizer(), plan)
    on_phase("answering the canary")
    llm.canary()
    compare_with_plan(settings, plan, generator.engine, context_bytes, with_retrieval=False)
    return llm


def make_pipeline(
    settings: Settings, embedder: Embedder, retriever: Retriever, generator: Generator, admission: Admission
) -> Pipeline:
    """The pipeline over three filled seams, wherever they live."""
    return Pipeline(
        embedder,
        retriever,
        generator,
        admission,
        Sessions(admission, generator, lifetime_s=settings.session_s, idle_s=settings.session_idle_s),
        default_top_k=settings.top_k,
        default_min_score=settings.min_score,
        deadline_s=settings.deadline_s,
        stream_deadline_s=settings.stream_deadline_s,
    )


def _import_libraries(settings: Settings, on_phase: Callable[[str], None]) -> tuple[str, int, int | None]:
    """The device to compute on, the threads to do it with, and the bytes that a card's context takes; none on a CPU."""
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
    """The embedder that the settings name, with its adapter. Raises ModelRefused."""
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


def admission_of(settings: Settings, plan: Plan, engine: Engine) -> Admission:
    """The ledger over the Plan's blocks; it learns from the engine how fast it is and when its memory ran out."""
    budget = Budget(
        sequences=plan.max_sequences,
        num_blocks=plan.num_blocks,
        block_tokens=engine.backend.block_size,
        block_bytes=plan.kv_bytes // max(1, plan.num_blocks),
        context_tokens=plan.max_model_len,
    )
    admission = Admission(
        budget,
        max_waiting=settings.queue,
        longest_wait_s=settings.queue_s,
        governed_tokens=settings.governed_context,
        long_share=settings.long_context_share,
        rates=engine.rates,
    )

    def take_on_less() -> None:
        left = admission.lose_a_session()
        _log.warning(json.dumps({"event": "out_of_memory", "sessions_left": left}))

    engine.on_out_of_memory = take_on_less
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
    """The LLM on the planned backend. Where BACKEND=auto fails its self-test, on torch, by a plan made for that."""
    from rag.engine.generator import load_generator

    def load() -> TextGenerator:
        on_phase("loading the LLM")
        return load_generator(
            settings.llm,
            dtype=settings.dtype,
            device=device,
            context_tokens=plan.max_model_len,
            num_blocks=plan.num_blocks,
            max_waiting=settings.places,  # the line is the ledger's; here only a step's worth may stand
            max_batch_tokens=settings.max_batch_tokens,
            trust_remote_code=settings.trust_remote_code,
            backend_name=chosen.name,
            weights=settings.weights,
            kv_dtype=settings.kv_dtype,
            threads=threads,
            on_phase=on_phase,
        )

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
    """Hold every file of the artifact, where there is one, to its manifest. Raises ArtifactRefused by the file."""
    if not settings.artifact:
        return
    on_phase("verifying the artifact")
    began = time.monotonic()
    size_bytes = artifact.verify(Path(settings.artifact))
    _log.info(json.dumps({"event": "artifact", "bytes": size_bytes, "verify_s": round(time.monotonic() - began, 3)}))


def compare_with_plan(
    settings: Settings, plan: Plan, engine: Engine, context_bytes: int | None, *, with_retrieval: bool = True
) -> None:
    """Hold `plan` to what loading took, and log both. Raises Failed where the KV bytes are not the plan's.

    `context_bytes` is what a card's context takes. On a CPU, None: the runtime is what the process holds when all is
    loaded and has worked once, beside what the plan counts one by one.
    """
    if engine.kv_bytes != plan.kv_bytes:
        raise Failed(
            "the engine allocated other KV bytes than the plan says",
            field="kv_bytes",
            value=engine.kv_bytes,
            limit=plan.kv_bytes,
            remedy="report this with the model's config.json: the capacity model misjudges it",
        )
    runtime_bytes = context_bytes
    if runtime_bytes is None:
        give_back()
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
    told = {"sessions": plan.concurrency, "context_tokens": plan.max_model_len, "kv_blocks": plan.num_blocks}
    _log.info(json.dumps({"event": "plan", **told, "have_bytes": plan.have_bytes, **figures}))


def _context_bytes(device: str) -> int | None:
    """What the context on a card takes before any model."""
    if device == "cpu":
        return None
    import torch

    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return total_bytes - free_bytes


def cores() -> int:
    """Cores that this process may use: a container often sees more than it was given."""
    cores = len(os.sched_getaffinity(0))
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().strip().partition(" ")
        if allowed != "max":
            cores = min(cores, max(1, round(int(allowed) / int(period))))
    return cores
