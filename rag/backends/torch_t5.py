"""The torch backend for encoder–decoders of the T5 family, with the same interface as that for decoders.

A block is a slot as long as the context, and prompt and answer share its cells: the encoder's tokens have the first
ones (keys and values of the cross-attention), the decoder's the next (its self-attention). A prompt is encoded whole,
in one step; after that every sequence adds one token a step, all in one batch.

T5 has no positions but a learnt bias by distance, computed here row by row, since rows are at different positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_outputs import BaseModelOutput
from typing_extensions import override

from rag.backends.attention import additive, attention, on_device, rounded_length
from rag.backends.base import Backend, Segment
from rag.backends.self_test import held_bytes, probe_ids, refuse_different
from rag.errors import ModelRefused

_names = itertools.count()


@dataclass(slots=True)
class _DecoderBatch:
    """One decoder pass: a range of slots, of which `rows` have a token. Tensors are (width,), one entry a slot."""

    first_slot: int
    rows: torch.Tensor  # (B,), counted from first_slot
    prompt_tokens: torch.Tensor
    positions: torch.Tensor  # of the newest decoder token
    length: int  # cells to attend over
    encoding: bool  # whether this pass stores a prompt's encoder states
    masks: dict[object, torch.Tensor] = field(default_factory=dict)


class TorchT5(Backend):
    """Raises ModelRefused, by name, for a model that it would run wrongly."""

    whole_prompts = True

    def __init__(self, model: Any, *, max_model_len: int) -> None:
        self._model = model
        self._model.train(False)
        self._max_model_len = max_model_len
        named = list(model.get_decoder().named_modules())
        self._cross = {id(module) for name, module in named if name.endswith("EncDecAttention")}
        biased = [module for _, module in named if getattr(module, "has_relative_attention_bias", False)]
        if not self._cross or not biased:
            raise ModelRefused(
                f"model_type {model.config.model_type!r} is an encoder–decoder of another family than T5",
                field="LLM",
                value=model.config.model_type,
                remedy="choose t5, flan-t5 or mt5, or a decoder",
            )
        self._first_biased: Any = biased[0]
        self._start_id = int(model.config.decoder_start_token_id or 0)
        self._shapes: dict[int, tuple[int, int]] = {}  # by layer: (heads, head_dim)
        self._keys: dict[int, torch.Tensor] = {}  # by layer: (slots, heads, cells, head_dim)
        self._values: dict[int, torch.Tensor] = {}
        self._prompt_tokens: dict[int, int] = {}  # by slot
        self._current: _DecoderBatch | None = None
        self._attention_name = f"rag_t5_{next(_names)}"
        AttentionInterface.register(self._attention_name, self._attend)

    @property
    @override
    def block_size(self) -> int:
        return self._max_model_len

    @property
    @override
    def vocab_size(self) -> int:
        return int(self._model.config.vocab_size)

    @property
    @override
    def weights_bytes(self) -> int:
        return held_bytes(self._model)

    @torch.inference_mode()
    @override
    def allocate(self, num_blocks: int) -> int:
        """num_blocks · max_model_len · Σ over decoder layers of 2 · heads · head_dim · itemsize bytes."""
        probe = probe_ids(self.vocab_size, self._max_model_len - 2)
        decoder_ids = self._tensor([[self._start_id, probe[0]]])
        expected = self._model(input_ids=self._tensor([probe]), decoder_input_ids=decoder_ids, use_cache=False).logits
        self._model.set_attn_implementation(self._attention_name)
        self._shapes.clear()
        self._model(input_ids=self._tensor([probe[:1]]), decoder_input_ids=decoder_ids[:, :1], use_cache=False)
        for layer, (heads, head_dim) in self._shapes.items():
            for store in (self._keys, self._values):
                size = (num_blocks, heads, self._max_model_len, head_dim)
                store[layer] = torch.zeros(size, dtype=self._model.dtype, device=self._model.device)
        first = self.step([Segment(probe, 0, [num_blocks - 1])])
        second = self.step([Segment(probe[:1], len(probe), [num_blocks - 1])])
        refuse_different(self._model, torch.cat([first, second]), expected[0].float())
        return sum(cells.nbytes for store in (self._keys, self._values) for cells in store.values())

    @override
    def copy(self, source: int, target: int, num_tokens: int) -> None:
        """Never called: nothing is reusable."""
        raise NotImplementedError("an encoder reads the whole prompt: prefixes are not shared")

    @override
    def reusable(self, written: int, shared: int) -> int:
        del written, shared
        return 0  # an encoder's states depend on the whole prompt

    @torch.inference_mode()
    @override
    def step(self, segments: Sequence[Segment]) -> torch.Tensor:
        """A segment that starts at 0 is a whole prompt, any other a single token."""
        rows: list[torch.Tensor | None] = [None] * len(segments)
        decodes = []
        for index, segment in enumerate(segments):
            if segment.start == 0:
                rows[index] = self._encode(segment)
            else:
                decodes.append(index)
        if decodes:
            slots = [segments[index].block_ids[0] for index in decodes]
            positions = [
                segments[index].start - self._prompt_tokens[slot] + 1
                for index, slot in zip(decodes, slots, strict=True)
            ]
            tokens = [segments[index].new_ids[0] for index in decodes]
            none = torch.zeros(len(tokens), 1, self._model.config.d_model, dtype=self._model.dtype)
            logits = self._decode(tokens, slots, positions, none.to(self._model.device), encoding=False)
            for index, row in zip(decodes, logits, strict=True):
                rows[index] = row
        return torch.stack([row for row in rows if row is not None])

    def _encode(self, segment: Segment) -> torch.Tensor:
        slot = segment.block_ids[0]
        states = self._model.get_encoder()(input_ids=self._tensor([list(segment.new_ids)])).last_hidden_state
        self._prompt_tokens[slot] = len(segment.new_ids)
        return self._decode([self._start_id], [slot], [0], states, encoding=True)[0]

    def _decode(
        self,
        tokens: Sequence[int],
        slots: Sequence[int],
        positions: Sequence[int],
        states: torch.Tensor,
        *,
        encoding: bool,
    ) -> torch.Tensor:
        """One decoder pass, a token for each sequence: (B, V)."""
        first, width = min(slots), max(slots) + 1 - min(slots)
        prompt_tokens, newest = [0] * width, [0] * width
        for slot, position in zip(slots, positions, strict=True):
            prompt_tokens[slot - first] = self._prompt_tokens[slot]
            newest[slot - first] = position
        longest = max(before + position + 1 for before, position in zip(prompt_tokens, newest, strict=True))
        self._current = _DecoderBatch(
            first_slot=first,
            rows=self._tensor([slot - first for slot in slots]),
            prompt_tokens=self._tensor(prompt_tokens),
            positions=self._tensor(newest),
            length=rounded_length(longest, self._max_model_len),
            encoding=encoding,
        )
        output = self._model(
            decoder_input_ids=self._tensor([[token] for token in tokens]),
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            use_cache=False,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits.float()

    def _tensor(self, values: Sequence[Any]) -> torch.Tensor:
        return on_device(values, self._model.device)

    def _attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *,
        scaling: float = 1.0,
        position_bias: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        """The encoder's attention unchanged; the decoder's over the slots: query (B, H, 1, D) → (B, 1, H, D)."""
        if not module.is_decoder:
            return attention(query, key, value, position_bias, scaling).transpose(1, 2), None
        layer, batch = int(module.layer_idx), self._current
        if batch is None:  # the forward pass of `allocate` that asks for the shapes
            self._shapes[layer] = (key.shape[1], key.shape[3])
            return torch.zeros_like(query).transpose(1, 2), None
        keys, values = self._keys[layer], self._values[layer]
        slots = batch.rows + batch.first_slot
        cross = id(module) in self._cross
        if cross and batch.encoding:
            keys[slots, :, : key.shape[2]] = key
            values[slots, :, : key.shape[2]] = value
        elif not cross:
            cells = (batch.prompt_tokens + batch.positions)[batch.rows]
            keys[slots, :, cells] = key[:, :, 0]
            values[slots, :, cells] = value[:, :, 0]
        window = slice(batch.first_slot, batch.first_slot + len(batch.positions))
        queries = query.new_zeros(len(batch.positions), *query.shape[1:])
        queries[batch.rows] = query
        attended = attention(
            queries,
            keys[window, :, : batch.length],
            values[window, :, : batch.length],
            self._cross_mask(batch) if cross else self._self_mask(batch, module),
            scaling,
        )
        return attended[batch.rows].transpose(1, 2), None

    def _cross_mask(self, batch: _DecoderBatch) -> torch.Tensor:
        """(width, 1, 1, cells): the encoder's tokens; the first cell for slots without a token in this pass."""
        if "cross" not in batch.masks:
            cells = torch.arange(batch.length, device=batch.positions.device)
            visible = cells < batch.prompt_tokens[:, None].clamp(min=1)
            batch.masks["cross"] = additive(visible, self._model.dtype)[:, None, None]
        return batch.masks["cross"]

    def _self_mask(self, batch: _DecoderBatch, module: Any) -> torch.Tensor:
        """(width, H, 1, cells): the decoder's tokens so far, biased by the layer's own table or the first one's."""
        owner = module if module.has_relative_attention_bias else self._first_biased
        if id(owner) not in batch.masks:
            cells = torch.arange(batch.length, device=batch.positions.device)
            distance = cells - (batch.prompt_tokens + batch.positions)[:, None]
            visible = (cells >= batch.prompt_tokens[:, None]) & (distance <= 0)
            bucket = owner._relative_position_bucket(
                distance,
                bidirectional=False,
                num_buckets=owner.relative_attention_num_buckets,
                max_distance=owner.relative_attention_max_distance,
            )
            bias = owner.relative_attention_bias(bucket).permute(0, 2, 1)[:, :, None]
            batch.masks[id(owner)] = bias + additive(visible, self._model.dtype)[:, None, None]
        return batch.masks[id(owner)]
