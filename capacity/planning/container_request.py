"""The request that this project's container makes of the capacity model: one place for the boot and the deployer.

The container's engine computes on one device without a hybrid KV allocator. Torch runs it with one KV slot a session,
as long as the context; OpenVINO with blocks, and memory of its own that is reserved here.
"""

from __future__ import annotations

from dataclasses import replace

from capacity.hardware.nodes import Hardware
from capacity.model.model import Model
from capacity.planning.plan import check
from capacity.planning.workload import EngineSpec, Request, Workload
from capacity.precision import dtype_name, weight_format

# The context of a model that sets no limit, where none is requested.
_UNBOUNDED_CONTEXT = 2048
# What OpenVINO holds beyond weights and KV, as a share of the weights and by layer. Fitted to what
# `python -m benchmarks.paged memory` measured of one model of 30 layers in float32 on AVX2; the cause is not known.
_HELD_SHARE_OF_WEIGHTS = 0.25
_HELD_BYTES_PER_LAYER = 2 * 2**20
# And its kernels, compiled anew for each length of a step: measured after thousands of requests of mixed lengths.
_KERNEL_BYTES = 64 * 2**20


def container_request(
    model: Model,
    hardware: Hardware,
    *,
    context_tokens: int | None,
    concurrency: int,
    max_batch_tokens: int,
    dtype: str,
    kv_dtype: str | None = None,
    weights: str | None = None,
    block_size_tokens: int | None = None,
) -> Request:
    """The request of a container with these settings; None or 0 `context_tokens` takes the model's maximum.

    `weights` is a quantised format, or None for `dtype`. `block_size_tokens` is that of OpenVINO's KV blocks, None for
    torch's slots. Embedder and index are added with `with_changes`. Raises CapacityError for a contradiction.
    """
    if weights:
        model = replace(
            model, dtype=dtype_name(dtype)
        )  # what is not quantised is held in `dtype`, whatever the file has
    elif model.quantization is None and model.dtype != dtype_name(dtype):
        weights = weight_format(dtype).name
    workload = Workload(
        context_tokens=context_tokens or model.max_context_tokens or _UNBOUNDED_CONTEXT,
        concurrency=concurrency,
        encoder_tokens=0,  # an encoder's prompt shares the slot with the answer (rag/backends/torch_t5.py)
    )
    engine = EngineSpec(
        kv_slots=block_size_tokens is None,
        block_size_tokens=block_size_tokens or 1,
        hybrid_allocator=False,
        kv_dtype=kv_dtype or dtype,
        weights_dtype=weights,
        max_batch_tokens=max_batch_tokens,
        max_sequences=concurrency,
        tensor_parallel=1,
    )
    request = Request(model, replace(hardware, devices=1), workload, engine)
    return request if block_size_tokens is None else request.with_changes(reserve_bytes=_held_bytes(request))


def _held_bytes(request: Request) -> int:
    """What OpenVINO holds beyond weights and KV."""
    weights_bytes = check(request).plan.need_bytes["weights"]
    layers_bytes = len(request.model.layers) * _HELD_BYTES_PER_LAYER
    return round(weights_bytes * _HELD_SHARE_OF_WEIGHTS) + layers_bytes + _KERNEL_BYTES
