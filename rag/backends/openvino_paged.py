"""The OpenVINO backend: a causal LM on a CPU over KV blocks of 32 tokens.

A step is one inference over the tokens of all segments, concatenated; block tables tell the paged-attention operation
which blocks hold each sequence's keys and values. The KV memory is one allocation, of which every layer's cache is a
part. Layers with a sliding window keep keys and values of the whole context too, so a block holds the same tokens in
every layer.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import openvino as ov
import torch
from typing_extensions import override

from rag.backends.base import Backend, Segment
from rag.backends.choice import BLOCK_TOKENS
from rag.backends.mapped_weights import float_on_disk, page_out
from rag.backends.openvino_graph import convert
from rag.backends.self_test import difference, held_bytes, probe_ids
from rag.errors import BackendRefused

KvType: TypeAlias = Literal["f32", "bf16", "u8"]
KV_TYPES: dict[str, KvType] = {"float32": "f32", "bfloat16": "bf16", "u8": "u8"}

# The self-test's prompts: one within a block, one beyond position 256, up to which bfloat16 represents every integer.
_SHORT_TOKENS, _LONG_TOKENS = 24, 300
# Largest difference from the torch model's logits, as a share of their standard deviation: a smaller KV format rounds
# more, a wrong mask or position is of the order of one.
_TOLERANCE: dict[KvType, float] = {"f32": 1e-3, "bf16": 1e-1, "u8": 3e-1}


class OpenVinoPaged(Backend):
    """Takes `model` over: its weights become the graph's, and it can't be used afterwards.

    `precision` is the format of products, `kv_type` that of stored keys and values. Raises BackendRefused where the
    model has no graph or, in `allocate`, where the graph gives other logits than the model did.
    """

    whole_prompts = False

    def __init__(
        self,
        model: Any,
        *,
        max_model_len: int,
        threads: int,
        precision: Literal["f32", "bf16"] = "f32",
        kv_type: KvType = "f32",
        on_phase: Callable[[str], None] = lambda _phase: None,
    ) -> None:
        self._name = type(model).__name__
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._tolerance = max(_TOLERANCE[precision], _TOLERANCE[kv_type])
        self._on_phase = on_phase
        self._probe = probe_ids(self._vocab_size, max_model_len, wanted=_LONG_TOKENS)
        on_phase("converting the LLM")
        try:
            self._spans = float_on_disk(model)
            self._weights_bytes = held_bytes(model) if precision == "f32" else _halved_bytes(model)
            self._expected = _logits(model, self._probe, [min(_SHORT_TOKENS, len(self._probe)) - 1, -1])
            graph = convert(model, max_model_len)
            on_phase("compiling the LLM")
            compiled = ov.Core().compile_model(
                graph,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": precision,
                    "KV_CACHE_PRECISION": kv_type,
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "PERFORMANCE_HINT": "LATENCY",
                    "ENABLE_CPU_PINNING": False,  # the embedder computes on the same cores
                    # Kernels cached, one a shape. The default, 5,000, is memory that grows with each new length.
                    "CPU_RUNTIME_CACHE_CAPACITY": 64,
                    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # int8 weights, never int8 activations
                },
            )
        except BackendRefused:
            raise
        except Exception as error:  # tracer and compiler raise errors of any type
            raise BackendRefused(
                f"{self._name} can't become an OpenVINO graph: {str(error).strip().splitlines()[0]}",
                field="BACKEND",
                value="openvino",
                remedy="set BACKEND=torch",
            ) from error
        self._request = compiled.create_infer_request()
        self._caches = [port for port in compiled.inputs if "_cache." in port.any_name]
        self._blocks: list[np.ndarray[Any, np.dtype[np.uint8]]] = []  # by cache: (num_blocks, bytes a block)

    @property
    @override
    def block_size(self) -> int:
        return BLOCK_TOKENS

    @property
    @override
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    @override
    def weights_bytes(self) -> int:
        """In the format of the products."""
        return self._weights_bytes

    @override
    def allocate(self, num_blocks: int) -> int:
        """num_blocks · Σ over layers of 32 · kv_heads · (key_dim + value_dim) · itemsize bytes; u8 adds its scales."""
        # The first inference packs the weights. Done before the KV memory is allocated, it does not add to the peak.
        self._allocate_caches(1)
        self.step([Segment(self._probe[:_SHORT_TOKENS], 0, [0])])
        gc.collect()  # the tracer leaves reference cycles
        page_out(self._spans)
        pool_bytes = self._allocate_caches(num_blocks)
        self._on_phase("testing the LLM")
        self._self_test(num_blocks)
        page_out(self._spans)  # of these, only the embedding rows of requested tokens are read again
        return pool_bytes

    def _allocate_caches(self, num_blocks: int) -> int:
        """One allocation for all caches, in place of the previous one; returns its bytes."""
        shapes = [
            [num_blocks, *(side.get_length() for side in list(port.get_partial_shape())[1:])] for port in self._caches
        ]
        sizes = [
            int(np.prod(shape)) * port.get_element_type().size for shape, port in zip(shapes, self._caches, strict=True)
        ]
        pool = np.empty(sum(sizes), dtype=np.uint8)
        pool.fill(
            0
        )  # written, so that all pages are resident from the start: those of np.zeros are mapped at first use
        ends = np.cumsum(sizes)
        self._blocks.clear()
        for port, shape, size, end in zip(self._caches, shapes, sizes, ends, strict=True):
            part = pool[end - size : end]
            self._request.set_tensor(port, ov.Tensor(part, ov.Shape(shape), port.get_element_type()))
            self._blocks.append(part.reshape(num_blocks, -1))
        return int(pool.nbytes)

    @override
    def copy(self, source: int, target: int, num_tokens: int) -> None:
        del num_tokens  # whole blocks: what follows the first `num_tokens` is written before it is read
        for cache in self._blocks:
            cache[target] = cache[source]

    @override
    def reusable(self, written: int, shared: int) -> int:
        del written  # no ring buffer: positions never wrap
        return shared

    @override
    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Releases the GIL while it computes."""
        ends = list(itertools.accumulate(len(segment.new_ids) for segment in segments))
        lengths = [segment.start + len(segment.new_ids) for segment in segments]
        tables = [
            segment.block_ids[: -(-length // BLOCK_TOKENS)] for segment, length in zip(segments, lengths, strict=True)
        ]
        positions = [np.arange(segment.start, length) for segment, length in zip(segments, lengths, strict=True)]
        self._set("input_ids", [token for segment in segments for token in segment.new_ids], np.int64)
        self._set("position_ids", np.concatenate(positions), np.int64)
        self._set("past_lens", [segment.start for segment in segments])
        self._set("subsequence_begins", [0, *ends])
        self._set("block_indices", [block for table in tables for block in table])
        self._set("block_indices_begins", [0, *itertools.accumulate(len(table) for table in tables)])
        self._set("max_context_len", max(lengths))
        self._set("sampled", [end - 1 for end in ends], np.int64)
        self._request.infer()
        return torch.tensor(self._request.get_output_tensor(0).data)

    def _set(self, name: str, values: object, dtype: type[np.generic] = np.int32) -> None:
        self._request.set_tensor(name, ov.Tensor(np.array(values, dtype=dtype)))

    def _self_test(self, num_blocks: int) -> None:
        """The long prompt in two chunks and a single token, with the short one beside the second chunk."""
        ids, short = self._probe, self._probe[:_SHORT_TOKENS]
        half, last = len(ids) // 2, len(ids) - 1
        blocks = list(range(num_blocks))[::-1]
        held = -(-len(ids) // BLOCK_TOKENS)
        self._compare("short", self.step([Segment(short, 0, blocks)])[0], self._expected[0])
        if held >= num_blocks or half == 0:
            return  # the memory can't hold a second sequence, or the probe has no second chunk
        self.step([Segment(ids[:half], 0, blocks)])
        beside = self.step([Segment(ids[half:last], half, blocks), Segment(short, 0, blocks[held:])])
        self._compare("short", beside[1], self._expected[0])
        self._compare("long", self.step([Segment(ids[last:], last, blocks)])[0], self._expected[1])

    def _compare(self, name: str, logits: torch.Tensor, expected: torch.Tensor) -> None:
        found, limit = difference(logits, expected), self._tolerance
        if not found <= limit:  # a NaN must fail too
            raise BackendRefused(
                f"{self._name} gives other logits as an OpenVINO graph than on its own, on the {name} test prompt",
                field="BACKEND",
                value=f"difference {found:.2g} of the logits' spread",
                limit=limit,
                remedy="set BACKEND=torch",
            )


def _halved_bytes(model: Any) -> int:
    """Bytes of a model computed in half precision, tied tensors once; int8 codes stay as they are."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*model.parameters(), *model.buffers())}
    return sum(tensor.numel() * min(2, tensor.itemsize) for tensor in tensors.values())


@torch.inference_mode()
def _logits(model: Any, ids: Sequence[int], rows: Sequence[int]) -> torch.Tensor:
    """The logits of `model` itself after the tokens `rows` of `ids`: (len(rows), V)."""
    kept = torch.tensor([row % len(ids) for row in rows])
    logits: torch.Tensor = model(input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=kept).logits[0]
    return logits.float()
