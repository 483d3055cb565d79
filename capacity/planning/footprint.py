"""Memory of one rank, term by term, each labelled exact, measured or estimated; and the sessions that fit beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fractions import Fraction

from capacity.memory.kv import (
    KvLayout,
    KvLine,
    all_token_bytes,
    ceil_fraction,
    line_at,
    session_bytes,
    state_bytes,
    token_bytes,
)
from capacity.memory.overheads import estimate
from capacity.memory.weights import rank_weights, stages
from capacity.model.layers import Layer
from capacity.planning.workload import Request
from capacity.precision import kv_format
from capacity.units import ceil_div

EXACT, MEASURED, ESTIMATED = "exact", "measured", "estimated"


@dataclass(frozen=True, slots=True)
class MemoryTerm:
    """One item of a rank's memory: bytes, `label` (exact, measured, estimated) and the source of the figure."""

    name: str
    bytes: int
    label: str
    source: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class KvPool:
    """KV cache of one rank in what an engine allocates: blocks for layers that grow, one slot a session for the rest.

    `session_bytes` = blocks_per_session · block_bytes + slot_bytes. `in_flight_bytes` is what windowed layers hold
    beyond their windows while a step's tokens are written: once a rank, however many sessions. `line` is KV bytes
    against tokens.
    """

    block_size_tokens: int
    block_bytes: int
    blocks_per_session: int
    slot_bytes: int
    in_flight_bytes: int
    line: KvLine

    @property
    def session_bytes(self) -> int:
        """Bytes of one session of the full context."""
        return self.blocks_per_session * self.block_bytes + self.slot_bytes


@dataclass(frozen=True, slots=True)
class Footprint:
    """The fullest rank of one pipeline stage: its fixed terms, its KV pool, and the memory it may use."""

    tensor_parallel: int
    fixed: tuple[MemoryTerm, ...]
    kv: KvPool
    have_bytes: int

    @property
    def fixed_bytes(self) -> int:
        """Everything but the sessions' KV."""
        return sum(term.bytes for term in self.fixed) + self.kv.in_flight_bytes

    @property
    def pool_bytes(self) -> int:
        """What is left for sessions; negative where the fixed terms alone don't fit."""
        return self.have_bytes - self.fixed_bytes

    @property
    def sessions(self) -> int:
        """Whole sessions that fit."""
        return max(0, self.pool_bytes // self.kv.session_bytes) if self.kv.session_bytes else 0

    def need_bytes(self, sessions: int) -> int:
        """Bytes needed for that many sessions."""
        return self.fixed_bytes + sessions * self.kv.session_bytes


def footprints(request: Request, tensor_parallel: int) -> list[Footprint]:
    """One footprint a pipeline stage, for `request` at this tensor parallelism."""
    model, engine, hardware = request.model, request.engine, request.hardware
    on_gpu = not hardware.is_cpu
    weights = rank_weights(model, tensor_parallel, engine.pipeline_parallel, engine.weights_dtype, on_gpu)
    overheads = estimate(model, hardware, tensor_parallel, request.batch_tokens, request.sequences)
    measured, have = engine.measured, int(hardware.device.memory_bytes * engine.utilization)
    layout = KvLayout(
        kv_format(request.kv_dtype),
        tensor_parallel,
        engine.block_size_tokens,
        engine.hybrid_allocator,
        request.workload.encoder_tokens,
    )
    found = []
    for span, held in zip(stages(len(model.layers), engine.pipeline_parallel), weights, strict=True):
        terms = [
            _term("weights", held.total_bytes, measured.weights_bytes, EXACT if held.exact else ESTIMATED, held.source),
            _term("activation", overheads.activation_bytes, measured.activation_bytes, ESTIMATED, "peak of a step"),
            _term("graphs", overheads.graph_bytes, measured.graph_bytes, ESTIMATED, "captured CUDA graphs"),
            _term("runtime", overheads.runtime_bytes, measured.runtime_bytes, ESTIMATED, "context and libraries"),
            MemoryTerm("collectives", overheads.collective_bytes, ESTIMATED, "buffers between ranks"),
            MemoryTerm("embedder", request.workload.embedder_bytes, EXACT, "its weights"),
            MemoryTerm("index", 0 if on_gpu else request.workload.index_bytes, EXACT, "vectors by the factory string"),
            MemoryTerm("reserve", engine.reserve_bytes, EXACT, "kept free"),
        ]
        pool = _pool(tuple(model.layers[index] for index in span), request, layout)
        found.append(
            Footprint(
                tensor_parallel, tuple(term for term in terms if term.bytes or term.name == "weights"), pool, have
            )
        )
    return found


def _term(name: str, estimated: int, measured: int | None, label: str, source: str) -> MemoryTerm:
    return (
        MemoryTerm(name, estimated, label, source)
        if measured is None
        else MemoryTerm(name, measured, MEASURED, "measured at boot")
    )


def _pool(layers: tuple[Layer, ...], request: Request, layout: KvLayout) -> KvPool:
    if request.engine.kv_slots:
        return _slots(layers, request, layout)
    tokens, block = request.workload.context_tokens, layout.block_size_tokens
    growing = [layer for layer in layers if _grows(layer, tokens, layout)]
    block_bytes = ceil_fraction(all_token_bytes(growing, layout) * block)
    blocks = ceil_div(tokens, block) if growing else 0
    steady = session_bytes(layers, tokens, layout)
    windowed = [layer for layer in layers if layer.attends and not _grows(layer, tokens, layout)]
    in_flight = ceil_fraction(all_token_bytes(windowed, layout) * min(request.batch_tokens, tokens))
    line = line_at(layers, tokens, replace(layout, block_size_tokens=1))
    return KvPool(block, block_bytes, blocks, max(0, steady - blocks * block_bytes), in_flight, line)


def _slots(layers: tuple[Layer, ...], request: Request, layout: KvLayout) -> KvPool:
    """One block a session: the whole context in every layer; in a windowed layer, the window and one step's tokens."""
    tokens, batch = request.workload.context_tokens, request.batch_tokens
    total = Fraction(0)
    for layer in layers:
        if layer.attends:
            held = tokens if layer.window_tokens is None else min(tokens, layer.window_tokens + batch - 1)
            total += token_bytes(layer, layout) * (held + (layout.encoder_tokens if layer.cross else 0))
        if layer.state is not None:
            total += state_bytes(layer.state, layout.tensor_parallel)
    session = ceil_fraction(total)
    return KvPool(tokens, session, 1, 0, 0, line_at(layers, tokens, replace(layout, block_size_tokens=1)))


def _grows(layer: Layer, tokens: int, layout: KvLayout) -> bool:
    """Whether the layer's KV still grows at this context: it has no window, or the window is not full."""
    if not layer.attends:
        return False
    return layer.window_tokens is None or not layout.hybrid_allocator or tokens <= layer.window_tokens
