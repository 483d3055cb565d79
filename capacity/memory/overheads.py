"""Device memory that is neither weights nor KV: activations, CUDA graphs, contexts, collectives. All estimates.

Sources are in catalog/overheads.json. Figures measured at boot are passed as `Measured`: the same
functions then compute the plan with terms labelled measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from capacity.hardware.nodes import Hardware
from capacity.model.model import Model
from capacity.precision import element_bytes
from capacity.units import GIB, MIB

# Activation elements a token and unit of attention width, by tensor parallelism: measured peaks.
_LAYER_FACTOR = {1: 11.0, 2: 6.5, 4: 5.0, 8: 5.0}
# Measured peaks are 39.3 to 40.5 kB a vocabulary entry at 1,024 rows: the sampler's warm-up, 39 bytes a row and entry.
_SAMPLER_BYTES = 39
_CONTEXT_BYTES = round(0.61 * GIB)  # CUDA context and libraries, H100; 0.7 on a B200
_COLLECTIVE_BYTES = {1: 0, 2: 342 * MIB, 4: 392 * MIB, 8: 392 * MIB}
_FRAMEWORK_BYTES = {1: round(0.13 * GIB), 2: round(0.55 * GIB)}
# CUDA graphs: 0.39 GiB (24 layers) to 1.03 GiB (36 layers, 128 experts) were measured; 16 to 29 MiB a layer.
_GRAPH_BYTES_PER_LAYER = 20 * MIB
# A Python process that serves with torch, transformers, OpenVINO and faiss, less the models: resident memory after some
# hundred requests, with the library code that was paged in by then.
PROCESS_BYTES = 560 * MIB


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures measured at boot, in bytes a rank; None keeps the estimate."""

    activation_bytes: int | None = None
    graph_bytes: int | None = None
    runtime_bytes: int | None = None
    weights_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Overheads:
    """Estimated bytes a rank."""

    activation_bytes: int
    graph_bytes: int
    runtime_bytes: int
    collective_bytes: int


def default_batch_tokens(hardware: Hardware) -> int:
    """Tokens that one engine step takes at most: 8,192 on large cards, 2,048 on others, 512 on a CPU."""
    if hardware.is_cpu:
        return 512
    return 8192 if hardware.device.memory_bytes >= 70 * GIB else 2048


def default_sequences(hardware: Hardware) -> int:
    """Sequences that one engine step takes at most: 1,024 on large cards, 256 on others, 32 on CPU."""
    if hardware.is_cpu:
        return 32
    return 1024 if hardware.device.memory_bytes >= 70 * GIB else 256


def estimate(model: Model, hardware: Hardware, tensor_parallel: int, batch_tokens: int, sequences: int) -> Overheads:
    """Overheads of one rank, from shapes alone."""
    if hardware.is_cpu:
        return _on_cpu(model, batch_tokens, sequences)
    factor = next(value for ranks, value in reversed(_LAYER_FACTOR.items()) if ranks <= tensor_parallel)
    layer = 2 * batch_tokens * model.attention_width * factor * (2 if model.has_experts else 1)
    sampler = _SAMPLER_BYTES * sequences * model.vocabulary
    collective = next(value for ranks, value in reversed(_COLLECTIVE_BYTES.items()) if ranks <= tensor_parallel)
    framework = _FRAMEWORK_BYTES[min(2, tensor_parallel)]
    return Overheads(
        activation_bytes=round(max(layer, sampler)),
        graph_bytes=_GRAPH_BYTES_PER_LAYER * len(model.layers),
        runtime_bytes=_CONTEXT_BYTES + framework,
        collective_bytes=collective,
    )


def _on_cpu(model: Model, batch_tokens: int, sequences: int) -> Overheads:
    """On a CPU: the same layer term in the model's own dtype, and fp32 logits for the rows that are sampled, twice."""
    width = max(model.attention_width, model.hidden_size)
    layer = (
        batch_tokens * width * _LAYER_FACTOR[1] * float(element_bytes(model.dtype)) * (2 if model.has_experts else 1)
    )
    return Overheads(
        activation_bytes=round(layer + 2 * 4 * sequences * model.vocabulary),
        graph_bytes=0,
        runtime_bytes=PROCESS_BYTES,
        collective_bytes=0,
    )
