"""The torch backend: any causal LM of transformers over preallocated slots, on CPU and CUDA by the same code.

A block is a slot as long as the context, so a sequence holds one. A step is ONE forward pass over all segments laid end
to end in one row: the linear layers see a single large matrix, and only attention looks at each sequence apart. That
needs no mask or cache class of transformers: an attention function, registered by its public AttentionInterface,
writes the new keys and values into the slots and attends from there.

Grouped-query attention costs no copy of the keys: the query heads of a group stand as rows of one small matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from rag.backend import Segment
from rag.errors import ModelRefused

_names = itertools.count()

# Decode masks are cut to the longest live sequence, rounded up to this, so that kernels meet few distinct shapes.
_LENGTH_STEP_TOKENS = 64

# Largest difference between the logits of this backend and the model's own that the self-test lets pass, as a share of
# the logits' own spread: rounding grows with the dtype, a wrong mask or position is of the order of one.
_SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 1e-1}


@dataclass(slots=True)
class _Step:
    """Where each token of the present forward pass lies. `slots` and `positions` are (T,), one entry a token."""

    slots: torch.Tensor
    positions: torch.Tensor
    prefills: list[tuple[int, int, int, int]]  # (first row, end row, slot, tokens in the slot afterwards)
    decode_rows: torch.Tensor  # (B,) rows of the single-token segments
    decode_slots: torch.Tensor  # (B,)
    decode_positions: torch.Tensor  # (B,)
    decode_width: int  # slots 0 … width − 1 take part in the decode attention
    decode_length: int  # cells of each of them
    masks: dict[tuple[int, ...], torch.Tensor] = field(default_factory=dict)


class TorchSlots:
    """Fills the Backend seam. Raises ModelRefused, by name, for a model that it would run wrongly."""

    def __init__(self, model: PreTrainedModel, *, max_model_len: int) -> None:
        self._model: Any = model  # transformers types its models too loosely for anything narrower to help
        self._model.train(False)
        self._text_config = model.config.get_text_config()
        self._max_model_len = max_model_len
        self._keys: list[torch.Tensor] = []  # a layer each: (slots, kv_heads, max_model_len, head_dim)
        self._values: list[torch.Tensor] = []
        self._current: _Step | None = None
        refuse_unsupported(model, max_model_len)
        self._own_attention = model.config._attn_implementation
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
        return int(self._text_config.vocab_size)

    @property
    def device(self) -> torch.device:
        """Where the weights and the slots live."""
        device: torch.device = self._model.device
        return device

    @torch.inference_mode()
    def allocate(self, num_blocks: int) -> int:
        """num_blocks · max_model_len · Σ over layers of kv_heads · (key_dim + value_dim) · itemsize bytes."""
        reference = self._forward_alone(_probe_ids(self.vocab_size, self._max_model_len))
        self._model.set_attn_implementation(self._attention_name)
        self._keys, self._values = [], []
        total_bytes = 0
        for kv_heads, key_dim, value_dim in _kv_shapes(self._model):
            for store, head_dim in ((self._keys, key_dim), (self._values, value_dim)):
                shape = (num_blocks, kv_heads, self._max_model_len, head_dim)
                store.append(torch.zeros(shape, dtype=self._model.dtype, device=self.device))
                total_bytes += store[-1].nbytes
        self._self_test(reference, num_blocks)
        return total_bytes

    @torch.inference_mode()
    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """See Backend.step. The logits come back in float32."""
        ids = [token for segment in segments for token in segment.new_ids]
        self._current = self._lay_out(segments)
        lasts = list(itertools.accumulate(len(segment.new_ids) for segment in segments))
        output = self._model(
            input_ids=self._tensor([ids]),
            position_ids=self._current.positions[None],
            logits_to_keep=self._tensor([last - 1 for last in lasts]),
            use_cache=False,
        )
        logits: torch.Tensor = output.logits[0]
        return logits.float()

    def _lay_out(self, segments: Sequence[Segment]) -> _Step:
        slots: list[int] = []
        positions: list[int] = []
        prefills = []
        decodes = []  # (row, slot, position)
        for segment in segments:
            row, slot, count = len(slots), segment.block_ids[0], len(segment.new_ids)
            if count == 1:
                decodes.append((row, slot, segment.start))
            else:
                prefills.append((row, row + count, slot, segment.start + count))
            slots += [slot] * count
            positions += range(segment.start, segment.start + count)
        longest = max((position + 1 for _, _, position in decodes), default=0)
        rounded = -(-longest // _LENGTH_STEP_TOKENS) * _LENGTH_STEP_TOKENS
        rows, decode_slots, decode_positions = zip(*decodes, strict=True) if decodes else ((), (), ())
        return _Step(
            slots=self._tensor(slots),
            positions=self._tensor(positions),
            prefills=prefills,
            decode_rows=self._tensor(rows),
            decode_slots=self._tensor(decode_slots),
            decode_positions=self._tensor(decode_positions),
            decode_width=max(decode_slots, default=-1) + 1,
            decode_length=min(rounded, self._max_model_len),
        )

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)

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
        step = self._current
        assert step is not None, "a forward pass only ever starts in step()"
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        keys, values = self._keys[layer], self._values[layer]
        keys[step.slots, :, step.positions] = key[0].transpose(0, 1)
        values[step.slots, :, step.positions] = value[0].transpose(0, 1)

        heads, kv_heads, tokens = query.shape[1], key.shape[1], query.shape[2]
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
            mask = self._prefill_mask(step, length - count, length, group, sliding_window)
            begin = 0 if sliding_window is None else max(0, length - count - sliding_window + 1)
            attended = _attention(
                rows,
                keys[slot : slot + 1, :, begin:length],
                values[slot : slot + 1, :, begin:length],
                mask[:, begin:],
                scale,
                softcap,
                None if sinks is None else sinks.repeat_interleave(count, dim=1),
            )
            output[first:end] = attended.view(kv_heads, group, count, -1).permute(2, 0, 1, 3)

        if step.decode_width:
            # Slots without a decode in this step ride along as rows of zeros: cheaper than copying the others' keys.
            rows = query.new_zeros(step.decode_width, kv_heads, group, query.shape[-1])
            rows[step.decode_slots] = grouped[step.decode_rows]
            attended = _attention(
                rows,
                keys[: step.decode_width, :, : step.decode_length],
                values[: step.decode_width, :, : step.decode_length],
                self._decode_mask(step, sliding_window),
                scale,
                softcap,
                sinks,
            )
            output[step.decode_rows] = attended[step.decode_slots]
        return output.view(1, tokens, heads, -1), None

    def _prefill_mask(self, step: _Step, start: int, length: int, group: int, window: int | None) -> torch.Tensor:
        """(group · T, length): token i of the chunk, at position start + i, sees itself and what stands before it."""
        key = (start, length, group, window or 0)
        if key not in step.masks:
            cells = torch.arange(length, device=self.device)
            queries = torch.arange(start, length, device=self.device)[:, None]
            step.masks[key] = self._additive(_visible(cells, queries, window).repeat(group, 1))
        return step.masks[key]

    def _decode_mask(self, step: _Step, window: int | None) -> torch.Tensor:
        """(slots, 1, 1, length). A slot that rides along sees its first cell: a row that sees none would be NaN."""
        key = (window or 0,)
        if key not in step.masks:
            positions = torch.zeros(step.decode_width, dtype=torch.long, device=self.device)
            positions[step.decode_slots] = step.decode_positions
            cells = torch.arange(step.decode_length, device=self.device)
            step.masks[key] = self._additive(_visible(cells, positions[:, None], window)[:, None, None])
        return step.masks[key]

    def _additive(self, visible: torch.Tensor) -> torch.Tensor:
        """0 where a query sees a cell, −∞ elsewhere. Made once a step: a boolean would be converted in every layer."""
        mask = torch.zeros(visible.shape, dtype=self._model.dtype, device=self.device)
        return mask.masked_fill_(~visible, float("-inf"))

    @torch.inference_mode()
    def _forward_alone(self, ids: Sequence[int]) -> torch.Tensor:
        """The model's own logits after `ids`, by its own attention and without any cache."""
        self._model.set_attn_implementation(self._own_attention)
        logits: torch.Tensor = self._model(input_ids=self._tensor([list(ids)]), use_cache=False).logits
        return logits[0, -1].float()

    def _self_test(self, reference: torch.Tensor, num_blocks: int) -> None:
        """Refuse a model whose logits differ through the slots: two chunks, then one token beside a second sequence."""
        ids = _probe_ids(self.vocab_size, self._max_model_len)
        third, slot = len(ids) // 3, [num_blocks - 1]
        segments = [Segment(ids[:third], 0, slot), Segment(ids[third:-1], third, slot)]
        for segment in segments:
            self.step([segment])
        last = [Segment(ids[-1:], len(ids) - 1, slot)]
        logits = self.step([*last, Segment(ids[:third], 0, [0])] if num_blocks > 1 else last)[0]
        difference = float((logits - reference).abs().max() / reference.std())
        limit = _SELF_TEST_TOLERANCE.get(self._model.dtype, 1e-1)
        if not difference <= limit:  # a NaN must fail too
            raise ModelRefused(
                f"{type(self._model).__name__} gives other logits over KV slots than on its own",
                field="LLM",
                value=f"difference {difference:.2g} of the logits' spread",
                limit=limit,
                remedy="choose another model; this one's attention needs more than keys, values, window, cap and sinks",
            )


def refuse_unsupported(model: PreTrainedModel, max_model_len: int) -> None:
    """Raise ModelRefused for what is known not to run over KV slots, before any memory is taken."""
    config = model.config
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    rope = getattr(text, "rope_parameters", None) or {}
    rope_types = {part.get("rope_type") for part in (rope, *rope.values()) if isinstance(part, dict)}
    reason = None
    if getattr(config, "is_encoder_decoder", False):
        reason = "it is an encoder–decoder"
    elif not kinds <= {"full_attention", "sliding_attention"}:
        reason = f"its layers are {', '.join(sorted(kinds))}"
    elif "dynamic" in rope_types:
        reason = "its rotary positions change with the length of the batch (rope_type dynamic)"
    elif "longrope" in rope_types and max_model_len > int(rope.get("original_max_position_embeddings", 0)):
        reason = "its long rotary factors (rope_type longrope) would mix with the short ones in a batch"
    if reason:
        raise ModelRefused(
            f"model_type {config.model_type!r} can't run over KV slots: {reason}",
            field="LLM",
            value=config.model_type,
            remedy="choose a decoder with full or sliding-window attention: llama, qwen, mistral, gemma, gpt-oss, …",
        )


def _attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """softmax(cap(q·kᵀ·scale) | sink)·v. query (B, H_kv, R, D), keys (B, H_kv, L, D), mask broadcast to the scores.

    torch's fused kernels know neither the cap (Gemma 2) nor the sinks (gpt-oss, one learnt logit a head, here
    (H_kv, R)): with one of them the same formula is written out.
    """
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = (query @ keys.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores.float() + mask
    if sinks is not None:
        sink = sinks.float()[None, :, :, None].expand(scores.shape[0], -1, -1, 1)
        scores = torch.cat([scores, sink], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values


def _visible(cells: torch.Tensor, queries: torch.Tensor, window: int | None) -> torch.Tensor:
    seen = cells <= queries
    return seen if window is None else seen & (cells > queries - window)


def _kv_shapes(model: PreTrainedModel) -> list[tuple[int, int, int]]:
    """(kv_heads, key_dim, value_dim) of every layer, as its own attention module will ask for."""
    text = model.config.get_text_config()
    heads = int(text.num_attention_heads)
    kv_heads = int(getattr(text, "num_key_value_heads", None) or heads)
    head_dim = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    return [(kv_heads, head_dim, head_dim)] * int(text.num_hidden_layers)


def _probe_ids(vocab_size: int, max_model_len: int) -> list[int]:
    """A fixed prompt for the self-test, spread over the vocabulary."""
    return [(7919 * place + 11) % vocab_size for place in range(min(24, max_model_len))]
