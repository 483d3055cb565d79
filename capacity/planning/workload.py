"""A sizing request: the workload, the model, the hardware, and the settings of the engine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from capacity.errors import InvalidInput
from capacity.hardware.nodes import Hardware
from capacity.memory.overheads import Measured, default_batch_tokens, default_sequences
from capacity.memory.vectors import index_size
from capacity.model.model import Model
from capacity.precision import kv_format, weight_format


@dataclass(frozen=True, slots=True)
class Workload:
    """`concurrency` sessions at once, each of `context_tokens` (prompt and answer together).

    `input_tokens` and `output_tokens` are the prompt and answer of a typical request, for latency and cost; they are
    never derived from the context. `encoder_tokens` is the source length of encoder–decoder models. The embedder and
    the index of a retrieval system are counted where their sizes are given.
    """

    context_tokens: int
    concurrency: int
    input_tokens: int | None = None
    output_tokens: int | None = None
    encoder_tokens: int = 512
    embedder_bytes: int = 0
    vectors: int = 0
    dimensions: int = 384
    index_factory: str = "Flat"

    def __post_init__(self) -> None:
        for name in ("context_tokens", "concurrency"):
            _positive(name.removesuffix("_tokens"), getattr(self, name))
        for name in ("input_tokens", "output_tokens"):
            value = getattr(self, name)
            if value is not None:
                _positive(name, value)
        for name in ("encoder_tokens", "embedder_bytes", "vectors"):
            if getattr(self, name) < 0:
                raise InvalidInput(name, f"{getattr(self, name)} is negative")
        if (self.input_tokens or 0) + (self.output_tokens or 0) > self.context_tokens:
            both = f"{self.input_tokens or 0} in and {self.output_tokens or 0} out"
            raise InvalidInput("input_tokens", f"{both} exceed a context of {self.context_tokens}")

    @property
    def index_bytes(self) -> int:
        """Bytes of the vector index."""
        return index_size(self.index_factory, self.dimensions).total_bytes(self.vectors) if self.vectors else 0


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Settings of the engine; None leaves the choice to the plan.

    `utilization` is the share of each device's memory that the engine may use; the driver and other processes have the
    rest.
    `instances` None in a plan means as many as it takes. `reserve_bytes` is kept free on every rank. `kv_slots` is for
    an engine whose block is a slot as long as the context: one a session, in which windowed layers keep a step's tokens
    beside their window.
    """

    tensor_parallel: int | None = None
    pipeline_parallel: int = 1
    instances: int | None = None
    utilization: float = 0.90
    block_size_tokens: int = 16
    kv_dtype: str | None = None
    weights_dtype: str | None = None
    max_batch_tokens: int | None = None
    max_sequences: int | None = None
    hybrid_allocator: bool = True
    reserve_bytes: int = 0
    kv_slots: bool = False
    measured: Measured = field(default_factory=Measured)

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "instances", "max_batch_tokens", "max_sequences"):
            value = getattr(self, name)
            if value is not None:
                _positive(name, value)
        _positive("pipeline_parallel", self.pipeline_parallel)
        _positive("block_size", self.block_size_tokens)
        if not 0 < self.utilization <= 1:
            raise InvalidInput("utilization", f"{self.utilization} is outside 0–1")
        if self.reserve_bytes < 0:
            raise InvalidInput("reserve_bytes", f"{self.reserve_bytes} is negative")
        if self.kv_dtype is not None:
            kv_format(self.kv_dtype)
        if self.weights_dtype is not None:
            weight_format(self.weights_dtype)


@dataclass(frozen=True, slots=True)
class Request:
    """This workload, by this model, on this hardware, with this engine.

    Raises InvalidInput where the parts contradict one another (context above the model's, ranks that don't divide).
    """

    model: Model
    hardware: Hardware
    workload: Workload
    engine: EngineSpec = field(default_factory=EngineSpec)

    def __post_init__(self) -> None:
        limit = self.model.max_context_tokens
        if limit is not None and self.workload.context_tokens > limit:
            raise InvalidInput(
                "context", f"{self.workload.context_tokens} tokens is above {self.model.name}'s maximum of {limit}"
            )
        layers, pipeline = len(self.model.layers), self.engine.pipeline_parallel
        if pipeline > layers:
            raise InvalidInput("pipeline_parallel", f"{pipeline} stages for {layers} layers")
        ranks = (self.engine.tensor_parallel or 1) * pipeline
        if ranks > self.hardware.devices:
            raise InvalidInput(
                "tensor_parallel",
                f"{ranks} ranks (tensor × pipeline) exceed {self.hardware.devices} device(s) of {self.hardware.name}",
            )
        if self.engine.tensor_parallel is not None:
            check_tensor_parallel(self.model, self.engine.tensor_parallel)

    @property
    def kv_dtype(self) -> str:
        """The KV format in force."""
        return kv_format(self.engine.kv_dtype).name if self.engine.kv_dtype else self.model.kv_dtype

    @property
    def batch_tokens(self) -> int:
        """Tokens an engine step takes at most."""
        return self.engine.max_batch_tokens or default_batch_tokens(self.hardware)

    @property
    def sequences(self) -> int:
        """Sequences an engine step takes at most."""
        return self.engine.max_sequences or default_sequences(self.hardware)

    def with_changes(self, **changes: Any) -> Request:
        """This request with fields of its workload, its engine or itself (model, hardware) replaced and validated."""
        parts: dict[str, Any] = {}
        for name, part in (("workload", self.workload), ("engine", self.engine)):
            own = {key: value for key, value in changes.items() if key in part.__dataclass_fields__}
            if own:
                parts[name] = replace(part, **own)
        parts |= {key: value for key, value in changes.items() if key in ("model", "hardware")}
        return replace(self, **parts)


def check_tensor_parallel(model: Model, ranks: int) -> None:
    """Raise InvalidInput where `ranks` does not divide the attention heads."""
    _positive("tensor_parallel", ranks)
    if model.attention_heads % ranks:
        divisors = [count for count in range(1, model.attention_heads + 1) if model.attention_heads % count == 0]
        listed = ", ".join(str(count) for count in divisors if count <= 16)
        raise InvalidInput(
            "tensor_parallel",
            f"{ranks} does not divide the {model.attention_heads} attention heads of {model.name}; use one of {listed}",
        )


def _positive(field_name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(field_name, f"{value!r} is not a whole number")
    if value < 1:
        raise InvalidInput(field_name, f"{value} is below 1")
