"""The torch backend: any causal LM of transformers over preallocated slots, on CPU and CUDA by the same code.

A block is a slot as long as the context, so a sequence holds one. A slot's cell holds the key and value of one token;
in layers with a sliding window the cells are a ring buffer, as long as the window and one step's chunk. A step is ONE
forward pass over the tokens of all segments, concatenated: the linear layers see a single large matrix, and only
attention is computed sequence by sequence. That needs no mask or cache class of transformers: an attention function,
registered by its public AttentionInterface, writes the new keys and values into the slots and attends from there.

Grouped-query attention does not copy the keys: the query heads of a group are the rows of one small matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface
from typing_extensions import override

from rag.backends.attention import attention, on_device
from rag.backends.base import Backend, Segment
from rag.backends.self_test import held_bytes, probe_ids, refuse_different, refuse_unsupported
from rag.backends.slot_batch import Prefill, SlotBatch

_names = itertools.count()

# Up to here the transposed product for the logits was the faster one; see ARCHITECTURE.md.
_MOST_TRANSPOSED_ROWS = 16


class _LayerShape(NamedTuple):
    """What a layer's attention module requires. `cells` is how many tokens its slots hold."""

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None
    cells: int


class _AttentionInputs(NamedTuple):
    """One layer's queries (T, H_kv, group, D), its stores (slots, H_kv, cells, D) and what changes the scores."""

    query: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    window: int | None
    scale: float
    softcap: float | None
    sinks: torch.Tensor | None


class TorchSlots(Backend):
    """Raises ModelRefused, by name, for a model that it would run wrongly."""

    whole_prompts = False

    def __init__(self, model: Any, *, max_model_len: int, max_chunk_tokens: int = 512) -> None:
        refuse_unsupported(model, max_model_len)
        self._model = model
        self._model.train(False)
        _transpose_head(model)
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._max_model_len = max_model_len
        self._max_chunk_tokens = max_chunk_tokens
        self._shapes: dict[int, _LayerShape] = {}  # by layer
        self._keys: dict[int, torch.Tensor] = {}  # by layer: (slots, kv_heads, cells, key_dim)
        self._values: dict[int, torch.Tensor] = {}
        self._current: SlotBatch | None = None
        # Each backend registers a function under another name, so that one process can have two models.
        self._attention_name = f"rag_slots_{next(_names)}"
        AttentionInterface.register(self._attention_name, self._attend)

    @property
    @override
    def block_size(self) -> int:
        return self._max_model_len

    @property
    @override
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    @override
    def weights_bytes(self) -> int:
        return held_bytes(self._model)

    @property
    def device(self) -> torch.device:
        """That of the weights and the slots."""
        device: torch.device = self._model.device
        return device

    @torch.inference_mode()
    @override
    def allocate(self, num_blocks: int) -> int:
        """num_blocks · Σ over layers of cells · kv_heads · (key_dim + value_dim) · itemsize bytes.

        cells is max_model_len, or min(max_model_len, window + max_chunk_tokens − 1) in a layer with a sliding window.
        The shapes are those of a forward pass of one token, so no config field is interpreted.
        """
        probe = probe_ids(self._vocab_size, self._max_model_len)
        expected = self._model(input_ids=self._tensor([probe]), use_cache=False).logits[0, -1].float()
        self._model.set_attn_implementation(self._attention_name)
        self._shapes.clear()
        self._model(input_ids=self._tensor([probe[:1]]), use_cache=False)
        for layer, shape in self._shapes.items():
            for store, head_dim in ((self._keys, shape.key_dim), (self._values, shape.value_dim)):
                size = (num_blocks, shape.kv_heads, shape.cells, head_dim)
                store[layer] = torch.zeros(size, dtype=self._model.dtype, device=self.device)
        self._self_test(probe, expected, num_blocks)
        return sum(cells.nbytes for store in (self._keys, self._values) for cells in store.values())

    @torch.inference_mode()
    @override
    def copy(self, source: int, target: int, num_tokens: int) -> None:
        # A ring buffer is copied whole: its cells are not in the order of the tokens.
        for store in (self._keys, self._values):
            for layer, cells in store.items():
                end = num_tokens if self._shapes[layer].window is None else cells.shape[2]
                cells[target, :, :end] = cells[source, :, :end]

    @override
    def reusable(self, written: int, shared: int) -> int:
        # A ring buffer must still hold the window before the next token.
        for shape in self._shapes.values():
            overwritten = written - shape.cells  # tokens before this one have lost their cells
            if shape.window is not None and overwritten > shared - shape.window + 1:
                return 0
        return shared

    @torch.inference_mode()
    @override
    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        # Decodes first and by slot: where they fill the slots without a gap, attention needs no copy of the queries.
        order = sorted(range(len(segments)), key=lambda place: (len(segments[place].new_ids) > 1, *segments[place][2]))
        ordered = [segments[place] for place in order]
        lasts = dict(zip(order, itertools.accumulate(len(segment.new_ids) for segment in ordered), strict=True))
        self._current = SlotBatch(ordered, self._max_model_len, self.device, self._model.dtype)
        output = self._model(
            input_ids=self._tensor([[token for segment in ordered for token in segment.new_ids]]),
            position_ids=self._current.positions[None],
            logits_to_keep=self._tensor([lasts[place] - 1 for place in range(len(segments))]),
            use_cache=False,
        )
        logits: torch.Tensor = output.logits[0]
        return logits.float()

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return on_device(values, self.device)

    def _attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """One layer's attention: query (1, H, T, D), key (1, H_kv, T, D), value (1, H_kv, T, D_v) → (1, T, H, D_v)."""
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        batch = self._current
        if batch is None:  # the forward pass of `allocate` that asks for the shapes
            cells = self._max_model_len
            if sliding_window is not None:
                cells = min(cells, sliding_window + self._max_chunk_tokens - 1)
            self._shapes[layer] = _LayerShape(key.shape[1], key.shape[3], value.shape[3], sliding_window, cells)
            return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None
        heads, kv_heads, tokens = query.shape[1], key.shape[1], query.shape[2]
        group = heads // kv_heads
        keys, values = self._keys[layer], self._values[layer]
        rows = batch.store_rows(kv_heads, keys.shape[2])
        for store, new in ((keys, key), (values, value)):
            store.view(-1, store.shape[3]).index_copy_(0, rows, new[0].transpose(0, 1).reshape(len(rows), -1))
        inputs = _AttentionInputs(
            # Head h reads KV head h // group, so the heads of a group are adjacent: (T, H_kv, group, D).
            query[0].view(kv_heads, group, tokens, -1).permute(2, 0, 1, 3),
            keys,
            values,
            sliding_window,
            query.shape[-1] ** -0.5 if scaling is None else scaling,
            softcap,
            None if s_aux is None else s_aux.view(kv_heads, group),
        )
        output = query.new_empty(tokens, kv_heads, group, value.shape[-1])
        for prefill in batch.prefills:
            output[prefill.first : prefill.end] = _attend_prefill(inputs, batch, prefill)
        if batch.decode_width:
            output[: len(batch.decode_slots)] = _attend_decodes(inputs, batch)
        return output.view(1, tokens, heads, -1), None

    def _self_test(self, ids: list[int], expected: torch.Tensor, num_blocks: int) -> None:
        """Refuse a model whose logits over slots differ: two chunks, then one token beside a second sequence."""
        third, slot = len(ids) // 3, [num_blocks - 1]
        segments = [Segment(ids[:third], 0, slot), Segment(ids[third:-1], third, slot)]
        for segment in segments:
            self.step([segment])
        last = [Segment(ids[-1:], len(ids) - 1, slot)]
        logits = self.step([*last, Segment(ids[:third], 0, [0])] if num_blocks > 1 else last)[0]
        refuse_different(self._model, logits, expected)


def _attend_prefill(inputs: _AttentionInputs, batch: SlotBatch, prefill: Prefill) -> torch.Tensor:
    """(T, H_kv, group, D_v) of one chunk."""
    first, end, slot, length = prefill
    count, (_, kv_heads, group, _) = end - first, inputs.query.shape
    held = min(length, inputs.keys.shape[2])
    attended = attention(
        # The heads of a group as rows of one matrix: row r is token r % count of head r // count.
        inputs.query[first:end].permute(1, 2, 0, 3).reshape(1, kv_heads, group * count, -1),
        inputs.keys[slot : slot + 1, :, :held],
        inputs.values[slot : slot + 1, :, :held],
        batch.prefill_mask(length - count, length, group, inputs.window, inputs.keys.shape[2]),
        inputs.scale,
        inputs.softcap,
        None if inputs.sinks is None else inputs.sinks.repeat_interleave(count, dim=1),
    )
    return attended.view(kv_heads, group, count, -1).permute(2, 0, 1, 3)


def _attend_decodes(inputs: _AttentionInputs, batch: SlotBatch) -> torch.Tensor:
    """(B, H_kv, group, D_v) of all decodes, by one kernel over their slots and those in between.

    Slots in between that have no decode are computed with a query of zeros: cheaper than copying the others' keys.
    """
    count, cells = len(batch.decode_slots), inputs.keys.shape[2]
    query = inputs.query[:count]
    if count < batch.decode_width:
        query = query.new_zeros(batch.decode_width, *query.shape[1:])
        query[batch.decode_slots] = inputs.query[:count]
    slots = slice(batch.first_slot, batch.first_slot + batch.decode_width)
    held = min(batch.decode_length, cells)
    attended = attention(
        query,
        inputs.keys[slots, :, :held],
        inputs.values[slots, :, :held],
        batch.decode_mask(inputs.window, cells),
        inputs.scale,
        inputs.softcap,
        inputs.sinks,
    )
    return attended if count == batch.decode_width else attended[batch.decode_slots]


def _transpose_head(model: Any) -> None:
    """On a CPU, compute the logits of a few rows as (W·xᵀ)ᵀ, which float32 kernels do up to twice as fast as x·Wᵀ.

    The result is a transposed view. A head that is not a plain Linear without bias is left as it is.
    """
    head: Any = model.get_output_embeddings()
    float32 = model.device.type == "cpu" and model.dtype == torch.float32
    if not float32 or getattr(head, "bias", None) is not None or not _is_plain_linear(head):
        return
    plain = head.forward

    def forward(states: torch.Tensor) -> torch.Tensor:
        rows = states.shape[:-1].numel()
        if not 2 <= rows <= _MOST_TRANSPOSED_ROWS:
            return plain(states)  # type: ignore[no-any-return]
        return torch.mm(head.weight, states.reshape(rows, -1).t()).t().reshape(*states.shape[:-1], -1)

    head.forward = forward


def _is_plain_linear(module: object) -> bool:
    return type(module) is torch.nn.Linear
