"""The torch backend: any causal LM of transformers over preallocated slots, on CPU and CUDA by the same code.

A block is a slot as long as the context, so a sequence holds one; layers with a sliding window keep a ring of cells, as
long as the window and one step's chunk. A step is ONE forward pass over all segments laid end to end in one row: the
linear layers see a single large matrix, and only attention looks at each sequence apart. That needs no mask or cache
class of transformers: an attention function, registered by its public AttentionInterface, writes the new keys and
values into the slots and attends from there.

Grouped-query attention costs no copy of the keys: the query heads of a group stand as rows of one small matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface

from rag.backends.attention import additive, attention, on_device, rounded_length, visible_cells
from rag.backends.base import Segment
from rag.backends.self_test import held_bytes, probe_ids, refuse_unlike, refuse_unsupported

_names = itertools.count()

# Up to here a turned product for the logits was the quicker one; see ARCHITECTURE.md.
_MOST_TURNED_ROWS = 16


@dataclass(slots=True)
class _Step:
    """Where each token of the present forward pass lies. `slots` and `positions` are (T,), one entry a token.

    Decodes come first, in the order of their slots: rows 0 to B.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    prefills: list[tuple[int, int, int, int]]  # (first row, end row, slot, tokens in the slot afterwards)
    decode_slots: torch.Tensor  # (B,), counted from first_slot
    decode_positions: torch.Tensor  # (B,)
    first_slot: int  # the decode attention runs over decode_width slots from here on
    decode_width: int
    decode_length: int  # cells of each of them
    places: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # of the stores, by their shape
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)


class _LayerShape(NamedTuple):
    """What a layer's attention module asks for. `cells` is how many tokens its slots hold."""

    kv_heads: int
    key_dim: int
    value_dim: int
    window: int | None
    cells: int


class TorchSlots:
    """Fills the Backend seam. Raises ModelRefused, by name, for a model that it would run wrongly."""

    whole_prompts = False

    def __init__(self, model: Any, *, max_model_len: int, max_chunk_tokens: int = 512) -> None:
        refuse_unsupported(model, max_model_len)
        self._model = model
        self._model.train(False)
        _turn_head(model)
        self._vocab_size = int(model.config.get_text_config().vocab_size)
        self._max_model_len = max_model_len
        self._max_chunk_tokens = max_chunk_tokens
        self._shapes: dict[int, _LayerShape] = {}  # by layer
        self._keys: dict[int, torch.Tensor] = {}  # by layer: (slots, kv_heads, cells, key_dim)
        self._values: dict[int, torch.Tensor] = {}
        self._current: _Step | None = None
        # Each backend registers its own function, so that two models in one process keep apart.
        self._attention_name = f"rag_slots_{next(_names)}"
        AttentionInterface.register(self._attention_name, self._attend)

    @property
    def block_size(self) -> int:
        """A slot holds the whole context."""
        return self._max_model_len

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding table."""
        return self._vocab_size

    @property
    def weights_bytes(self) -> int:
        """Of all parameters and buffers, tied ones once."""
        return held_bytes(self._model)

    @property
    def device(self) -> torch.device:
        """Where the weights and the slots live."""
        device: torch.device = self._model.device
        return device

    @torch.inference_mode()
    def allocate(self, num_blocks: int) -> int:
        """num_blocks · Σ over layers of cells · kv_heads · (key_dim + value_dim) · itemsize bytes.

        cells is max_model_len, or min(max_model_len, window + max_chunk_tokens − 1) where the layer slides. The shapes
        are those that the attention modules ask for in a forward pass of one token, so no config field is interpreted.
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
    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """See Backend.copy. A ring is copied whole: its cells are not in the order of the tokens."""
        for store in (self._keys, self._values):
            for layer, cells in store.items():
                end = num_tokens if self._shapes[layer].window is None else cells.shape[2]
                cells[target, :, :end] = cells[source, :, :end]

    def reusable(self, written: int, shared: int) -> int:
        """See Backend.reusable: a ring must still hold the window before the next token."""
        for shape in self._shapes.values():
            overwritten = written - shape.cells  # tokens before this one have lost their cells
            if shape.window is not None and overwritten > shared - shape.window + 1:
                return 0
        return shared

    @torch.inference_mode()
    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """See Backend.step. The logits come back in float32."""
        # Decodes first and by slot: where they fill the slots without a gap, attention need not rearrange anything.
        order = sorted(range(len(segments)), key=lambda place: (len(segments[place].new_ids) > 1, *segments[place][2]))
        ordered = [segments[place] for place in order]
        lasts = dict(zip(order, itertools.accumulate(len(segment.new_ids) for segment in ordered), strict=True))
        self._current = self._lay_out(ordered)
        output = self._model(
            input_ids=self._tensor([[token for segment in ordered for token in segment.new_ids]]),
            position_ids=self._current.positions[None],
            logits_to_keep=self._tensor([lasts[place] - 1 for place in range(len(segments))]),
            use_cache=False,
        )
        logits: torch.Tensor = output.logits[0]
        return logits.float()

    def _lay_out(self, segments: Sequence[Segment]) -> _Step:
        slots: list[int] = []
        positions: list[int] = []
        prefills = []
        decodes = []  # (slot, position)
        for segment in segments:
            row, slot, count = len(slots), segment.block_ids[0], len(segment.new_ids)
            if count == 1:
                decodes.append((slot, segment.start))
            else:
                prefills.append((row, row + count, slot, segment.start + count))
            slots += [slot] * count
            positions += range(segment.start, segment.start + count)
        decode_slots, decode_positions = zip(*decodes, strict=True) if decodes else ((), ())
        first_slot = min(decode_slots, default=0)
        longest = max(decode_positions, default=-1) + 1
        return _Step(
            slots=self._tensor(slots),
            positions=self._tensor(positions),
            prefills=prefills,
            decode_slots=self._tensor([slot - first_slot for slot in decode_slots]),
            decode_positions=self._tensor(decode_positions),
            first_slot=first_slot,
            decode_width=max(decode_slots) + 1 - first_slot if decode_slots else 0,
            decode_length=rounded_length(longest, self._max_model_len),
        )

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
        step = self._current
        if step is None:  # the probe of `allocate`
            cells = self._max_model_len
            if sliding_window is not None:
                cells = min(cells, sliding_window + self._max_chunk_tokens - 1)
            self._shapes[layer] = _LayerShape(key.shape[1], key.shape[3], value.shape[3], sliding_window, cells)
            return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None
        keys, values = self._keys[layer], self._values[layer]
        cells = keys.shape[2]
        heads, kv_heads, tokens = query.shape[1], key.shape[1], query.shape[2]
        places = self._places(step, kv_heads, cells)
        for store, new in ((keys, key), (values, value)):
            store.view(-1, store.shape[3]).index_copy_(0, places, new[0].transpose(0, 1).reshape(len(places), -1))

        group = heads // kv_heads
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        sinks = None if s_aux is None else s_aux.view(kv_heads, group)
        # Head h reads KV head h // group, so the heads of a group are neighbours: (T, H_kv, group, D).
        grouped = query[0].view(kv_heads, group, tokens, -1).permute(2, 0, 1, 3)
        output = query.new_empty(tokens, kv_heads, group, value.shape[-1])

        for first, end, slot, length in step.prefills:
            count = end - first
            # the group's heads one after another as rows of one matrix: row r is token r % count of head r // count
            rows = grouped[first:end].permute(1, 2, 0, 3).reshape(1, kv_heads, group * count, -1)
            held = min(length, cells)
            attended = attention(
                rows,
                keys[slot : slot + 1, :, :held],
                values[slot : slot + 1, :, :held],
                self._prefill_mask(step, length - count, length, group, sliding_window, cells),
                scale,
                softcap,
                None if sinks is None else sinks.repeat_interleave(count, dim=1),
            )
            output[first:end] = attended.view(kv_heads, group, count, -1).permute(2, 0, 1, 3)

        if step.decode_width:
            # Slots in between without a decode ride along as rows of zeros: cheaper than copying the others' keys.
            count = len(step.decode_slots)
            rows = grouped[:count]
            if count < step.decode_width:
                rows = query.new_zeros(step.decode_width, kv_heads, group, query.shape[-1])
                rows[step.decode_slots] = grouped[:count]
            width, held = slice(step.first_slot, step.first_slot + step.decode_width), min(step.decode_length, cells)
            attended = attention(
                rows,
                keys[width, :, :held],
                values[width, :, :held],
                self._decode_mask(step, sliding_window, cells),
                scale,
                softcap,
                sinks,
            )
            output[:count] = attended if count == step.decode_width else attended[step.decode_slots]
        return output.view(1, tokens, heads, -1), None

    def _places(self, step: _Step, kv_heads: int, cells: int) -> torch.Tensor:
        """(T · H_kv,): where each token's heads lie in a store seen as rows of head_dim, as (slots · H_kv · cells)."""
        key = (kv_heads, cells)
        if key not in step.places:
            heads = torch.arange(kv_heads, device=self.device)
            rows = (step.slots[:, None] * kv_heads + heads) * cells + (step.positions % cells)[:, None]
            step.places[key] = rows.flatten()
        return step.places[key]

    def _prefill_mask(
        self, step: _Step, start: int, length: int, group: int, window: int | None, cells: int
    ) -> torch.Tensor:
        """(group · T, held cells): token i of the chunk, at position start + i, sees itself and what precedes it."""
        key = (start, length, group, window or 0, cells)
        if key not in step.masks:
            queries = torch.arange(start, length, device=self.device)[:, None]
            last = torch.tensor([[length - 1]], device=self.device)
            visible = visible_cells(min(length, cells), cells, last, queries, window)
            step.masks[key] = additive(visible.repeat(group, 1), self._model.dtype)
        return step.masks[key]

    def _decode_mask(self, step: _Step, window: int | None, cells: int) -> torch.Tensor:
        """(slots, 1, 1, held cells). A slot that rides along sees its first cell: a row that sees none would be NaN."""
        key = (window or 0, cells)
        if key not in step.masks:
            positions = torch.zeros(step.decode_width, dtype=torch.long, device=self.device)
            positions[step.decode_slots] = step.decode_positions
            queries = positions[:, None]
            visible = visible_cells(min(step.decode_length, cells), cells, queries, queries, window)
            step.masks[key] = additive(visible[:, None, None], self._model.dtype)
        return step.masks[key]

    def _self_test(self, ids: list[int], expected: torch.Tensor, num_blocks: int) -> None:
        """Refuse a model whose logits differ through the slots: two chunks, then one token beside a second sequence."""
        third, slot = len(ids) // 3, [num_blocks - 1]
        segments = [Segment(ids[:third], 0, slot), Segment(ids[third:-1], third, slot)]
        for segment in segments:
            self.step([segment])
        last = [Segment(ids[-1:], len(ids) - 1, slot)]
        logits = self.step([*last, Segment(ids[:third], 0, [0])] if num_blocks > 1 else last)[0]
        refuse_unlike(self._model, logits, expected)


def _turn_head(model: Any) -> None:
    """On a CPU, compute the logits of a few rows as (W·xᵀ)ᵀ, which float32 kernels do up to twice as fast as x·Wᵀ.

    The result is a transposed view. A head that is more than a matrix is left alone.
    """
    head: Any = model.get_output_embeddings()
    float32 = model.device.type == "cpu" and model.dtype == torch.float32
    if not float32 or getattr(head, "bias", None) is not None or not _is_plain_linear(head):
        return
    plain = head.forward

    def forward(states: torch.Tensor) -> torch.Tensor:
        rows = states.shape[:-1].numel()
        if not 2 <= rows <= _MOST_TURNED_ROWS:
            return plain(states)  # type: ignore[no-any-return]
        return torch.mm(head.weight, states.reshape(rows, -1).t()).t().reshape(*states.shape[:-1], -1)

    head.forward = forward


def _is_plain_linear(module: object) -> bool:
    return type(module) is torch.nn.Linear
